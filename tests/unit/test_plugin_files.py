"""A strategy in one file, and in a notebook."""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tokenred
from tokenred import CostTermConfig, PluginError, StrategyConfig, registry
from tokenred.cli import main
from tokenred.evaluation.provenance import code_version, package_version
from tokenred.interfaces import AnchorSelector, CostTerm, Coupler, KeepScore
from tokenred.pipeline import load_config
from tokenred.plugin_files import PREFIX, load_plugin_file, plugin_files, unload_plugin_file
from tokenred.plugins import loaded, plugin_statuses
from tokenred.slots import build, strategy_config

NEAREST_TWO = Path(__file__).parents[2] / "docs/how-to/nearest_two.py"
HOOKS = """
import tokenred

class MyConfig(tokenred.StrategyConfig):
    size: int = 1

class Mine(tokenred.Coupler):
    config: MyConfig
    marginals = "none"
    def couple(self, cost, source_mass, anchor_mass): ...

@tokenred.hookimpl
def register_strategies(register):
    register("mine", Mine)

@tokenred.hookimpl
def register_presets(register):
    register("my-preset", "mine.yaml")
"""
ANY = "import tokenred\n"
HOOK = f"{ANY}@tokenred.hookimpl\ndef "


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Leave nothing of these tests in the registry."""
    found, statuses = loaded()
    before = dict(found._entries), dict(found._others), list(statuses)
    yield
    for path in plugin_files():
        unload_plugin_file(path)
    found._entries, found._others, statuses[:] = before


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_brings_strategies_and_presets(tmp_path: Path) -> None:
    path = write(tmp_path, HOOKS)
    load_plugin_file(path)
    entry = registry().get("coupler", "mine")
    assert entry.owner == "mine.py"
    config = strategy_config("coupler", {"name": "mine", "size": 3})
    assert build(Coupler, config).config.size == 3
    assert pickle.loads(pickle.dumps(config)) == config
    assert registry().preset("my-preset") == tmp_path / "mine.yaml"
    (status,) = [each for each in plugin_statuses() if each.file]
    assert (status.name, status.file, status.error) == ("mine", str(path), None)
    unload_plugin_file(path)
    assert not registry().owned("mine.py")
    assert not [each for each in plugin_statuses() if each.file]


def test_an_edited_file_replaces_what_it_brought_and_has_another_version(tmp_path: Path) -> None:
    path = write(tmp_path, HOOKS)

    def version() -> str:
        load_plugin_file(path)
        return code_version(load_config("aot-paper", {"stages.intra_frame.coupler": "mine"}))

    first = version()
    assert first.startswith(f"{package_version()} mine.py=")
    assert version() == first
    write(tmp_path, HOOKS.replace("size: int = 1", "size: int = 2"))
    assert version() != first
    assert strategy_config("coupler", "mine").size == 2
    assert code_version(load_config("aot-paper")) == package_version()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", r"registers nothing; put @tokenred.register"),
        (
            "def register_strategies(register): ...",
            "put @tokenred.hookimpl above 'register_strategies'",
        ),
        ("import nowhere_at_all", r"ModuleNotFoundError: No module named .* \(line 1\)"),
        ("\nx = (", r"SyntaxError: .*\(line 2\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(line 2\)"),
        (f"{HOOK}register_strategy(register): ...", "did you mean 'register_strategies'"),
        (f"{HOOK}register_couplers(register): ...", "every role come in by register_strategies"),
        (HOOKS.replace('"mine",', '"sinkhorn",'), "'sinkhorn' of mine.py .* taken by tokenred"),
        (
            f"{HOOK}register_presets(register):\n    register('vanilla', 'x.yaml')",
            "preset 'vanilla'",
        ),
        (
            f"{ANY}@tokenred.register('x')\nclass X: ...",
            "derives from no role; .* class X\\(tokenred.Coupler\\)",
        ),
    ],
)
def test_a_faulty_file_is_one_sentence_and_leaves_nothing_behind(
    tmp_path: Path, text: str, sentence: str
) -> None:
    before = registry().entries(), registry().presets()
    with pytest.raises(PluginError, match=sentence) as caught:
        load_plugin_file(write(tmp_path, text))
    assert "mine.py" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (registry().entries(), registry().presets()) == before
    assert not plugin_files()
    assert not [name for name in sys.modules if name.startswith(PREFIX)]


def test_a_file_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"absent.py cannot be read: No such file"):
        load_plugin_file(tmp_path / "absent.py")
    with pytest.raises(PluginError, match=r"is a Python file .* got 'mine.yaml'"):
        load_plugin_file("mine.yaml")
    load_plugin_file(write(tmp_path, HOOKS))
    (tmp_path / "other").mkdir()
    with pytest.raises(PluginError, match=r"is called like .*mine.py, which is loaded"):
        load_plugin_file(write(tmp_path / "other", HOOKS))


def test_a_faulty_edit_leaves_what_was_there(tmp_path: Path) -> None:
    load_plugin_file(write(tmp_path, HOOKS))
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        load_plugin_file(write(tmp_path, f"{HOOKS}\n1 / 0"))
    assert registry().get("coupler", "mine")


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(words)
    streams = capsys.readouterr()
    return int(stop.value.code or 0), streams.out, streams.err


def test_the_option_knows_a_file_for_one_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write(tmp_path, HOOKS))
    show = ("config", "show", "aot-paper", "--set", "stages.intra_frame.coupler=mine", "--json")
    code, out, _ = call(capsys, *show, "--plugin", path, "--plugin", str(NEAREST_TWO))
    assert code == 0
    assert json.loads(out)["stages"]["intra_frame"]["coupler"] == {"name": "mine", "size": 1}
    code, _, err = call(capsys, *show)
    assert (code, "unknown coupler 'mine'" in err) == (2, True)
    code, out, _ = call(capsys, "plugins", "--json", "--plugin", path)
    theirs = [each for each in json.loads(out) if each["file"] == path]
    assert [each["brings"] for each in theirs] == [["coupler mine", "preset my-preset"]]
    code, _, err = call(capsys, *show, "--plugin", str(tmp_path / "absent.py"))
    assert (code, err.count("\n"), "absent.py cannot be read" in err) == (2, 1, True)


@pytest.mark.parametrize(
    "verb",
    ["run", "ablate", "bench", "viz", "overlap", "list", "plugins"]
    + [f"config {verb}" for verb in ("show", "hash", "schema")],
)
def test_every_verb_that_takes_a_pipeline_takes_a_file(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--plugin FILE.py" in " ".join(call(capsys, *verb.split(), "--help")[1].split())


class Plain(Coupler):
    marginals = "none"

    def couple(self, cost: Any, source_mass: Any, anchor_mass: Any) -> Any: ...


class Selector(AnchorSelector):
    class Config(StrategyConfig):
        size: int = 4

    config: Config
    needs = frozenset({"importance"})

    def select(self, tokens: Any, n_anchors: int, *, generator: Any) -> Any: ...


class TermConfig(CostTermConfig):
    power: int = 2


class Term(CostTerm):
    config: "TermConfig"

    def cost(self, sources: Any, anchors: Any) -> Any: ...


class PlainTerm(CostTerm):
    def cost(self, sources: Any, anchors: Any) -> Any: ...


class Score(KeepScore):
    keep = "low"

    def score(self, coupling: Any) -> Any: ...


@pytest.mark.parametrize(
    ("cls", "role", "settings"),
    [
        (Plain, "coupler", {"name"}),
        (Selector, "selector", {"name", "size"}),
        (Term, "cost term", {"name", "weight", "power"}),
        (PlainTerm, "cost term", {"name", "weight"}),
        (Score, "keep score", {"name"}),
    ],
)
def test_role_and_settings_are_read_from_the_class(
    cls: type, role: str, settings: set[str]
) -> None:
    assert tokenred.register("my-own")(cls) is cls
    entry = registry().get(role, "my-own")
    assert entry.owner == Path(__file__).name
    assert set(entry.config_class.model_fields) == settings
    config = strategy_config(role, "my-own")
    assert isinstance(build(role, config), cls)
    assert pickle.loads(pickle.dumps(config)) == config


class Flagless(Coupler):
    def couple(self, cost: Any, source_mass: Any, anchor_mass: Any) -> Any: ...


class Methodless(Coupler):
    marginals = "none"


class NoArgument(Plain):
    def __init__(self) -> None: ...


class NoConfig(Plain):
    config: int


@pytest.mark.parametrize(
    ("cls", "name", "sentence"),
    [
        (Flagless, "flagless", "coupler 'flagless' of .*: Flagless does not define 'marginals'"),
        (Methodless, "lazy", "coupler 'lazy' of .*: Methodless does not define 'couple'"),
        (NoArgument, "none-taken", r"NoArgument.__init__ takes the settings"),
        (NoConfig, "no-config", "the config of NoConfig is no StrategyConfig"),
        (Plain, "sinkhorn", "coupler 'sinkhorn' of .* is already taken by tokenred"),
        (dict, "not-one", "dict derives from no role"),
    ],
)
def test_a_class_that_does_not_fit_is_refused_in_one_sentence(
    cls: type, name: str, sentence: str
) -> None:
    before = registry().entries()
    with pytest.raises(PluginError, match=sentence):
        tokenred.register(name)(cls)
    assert registry().entries() == before


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"marginal": "both"}, "a coupler has no 'marginal'; did you mean 'marginals'"),
        ({"marginals": "bth"}, "marginals is one of 'both', 'source', 'anchor', 'none', got 'bth'"),
        ({"independent": 1}, "independent is a bool, got 1"),
        ({"independent": lambda self: True}, "'independent' is a value or a property"),
        ({"cuple": lambda self: None}, "a coupler has no 'cuple'; did you mean 'couple'"),
        ({"__annotations__": {"copys": bool}}, "a coupler has no 'copys'"),
    ],
)
def test_what_a_role_does_not_have_is_refused_where_it_is_written(
    body: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PluginError, match=sentence):
        type("Mine", (Plain,), body)


def test_what_is_ones_own_is_nobodys_business() -> None:
    type("Mine", (Plain,), {"_note": 1, "LIMIT": 3, "_help": lambda self: 2})


CELL = """
@tokenred.register("from-a-cell")
class Mine(tokenred.Coupler):
    marginals = "none"
    def couple(self, cost, source_mass, anchor_mass):
        return {value}
"""


def test_a_cell_that_runs_again_replaces_what_it_registered() -> None:
    cell = {"tokenred": tokenred, "__name__": "a_notebook"}

    def version(value: int) -> str:
        exec(CELL.format(value=value), cell)
        entry = registry().get("coupler", "from-a-cell")
        assert (entry.owner, entry.factory) == ("notebook", cell["Mine"])
        return code_version(load_config("aot-paper", {"stages.intra_frame.coupler": entry.name}))

    first = version(1)
    assert version(1) == first
    assert version(2) != first
