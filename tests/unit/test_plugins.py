"""Plugins: same door for everybody, and nobody takes the others down."""

import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tokenred import PluginError, StrategyConfig, hookimpl, plugins
from tokenred.cli import doctor, main
from tokenred.evaluation.scorers import Scorer
from tokenred.evaluation.tasks.embedded import EmbeddedTask
from tokenred.interfaces import Coupler
from tokenred.plugins import SWITCH, PluginStatus, load_registry, register_plugin
from tokenred.registry import Registry

Register = Callable[..., None]


class MyConfig(StrategyConfig):
    """One setting."""

    size: int = 1


class MyCoupler(Coupler):
    config: MyConfig
    marginals = "none"

    def couple(self, cost: Any, source_mass: Any, anchor_mass: Any) -> Any: ...


class Good:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine", MyCoupler)

    @hookimpl
    def register_presets(self, register: Register) -> None:
        register("my-preset", Path("mine.yaml"))


class Colliding:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine-too", MyCoupler)
        register("sinkhorn", MyCoupler)


class CollidingPreset:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine-too", MyCoupler)

    @hookimpl
    def register_presets(self, register: Register) -> None:
        register("mine-too", "x.yaml")
        register("aot-paper", "y.yaml")


class Mistyped:
    @hookimpl
    def register_coupler(self, register: Register) -> None:
        register("mine", MyCoupler)


class WrongArguments:
    @hookimpl
    def register_strategies(self, registry: Register) -> None:
        registry("mine", MyCoupler)


class NoStrategy:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine", dict)


class NoRole:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine", "their_package.parts:Coupler")


class OtherRole:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine", "their_package.parts:Coupler", "couplr")


class Shapeless:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine", "their_package.parts.Coupler", "coupler")


class Raising:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("mine", MyCoupler)
        raise RuntimeError("boom")


def builtins() -> Registry:
    return load_registry(third_party=False)[0]


def names(found: Registry) -> list[tuple[str, str]]:
    return [(entry.role, entry.name) for entry in found.entries()]


def test_a_plugin_brings_strategies_and_presets_under_its_own_name() -> None:
    found = builtins()
    register_plugin(found, Good(), "their-package")
    assert found.get("coupler", "mine").owner == "their-package"
    assert found.get("coupler", "mine").config_class is MyConfig
    assert found.presets()["my-preset"] == (Path("mine.yaml"), "their-package")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Colliding(), "coupler 'sinkhorn' of them is already taken by tokenred"),
        (CollidingPreset(), "preset 'aot-paper' of them is already taken by tokenred"),
        (Mistyped(), "unknown hook 'register_coupler'"),
        (WrongArguments(), r"plugin them: .*Argument\(s\) {'registry'} are declared"),
        (NoStrategy(), "'mine' of them: <class 'dict'> is no strategy; derive it from the base"),
        (NoRole(), "'mine' of them: a class that is given by name needs its role, as in register"),
        (OtherRole(), "'mine' of them: unknown role 'couplr'; did you mean 'coupler'"),
        (Shapeless(), "given as 'module:Class', them gives 'their_package.parts.Coupler'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_faulty_plugin_is_named_and_leaves_nothing_behind(plugin: object, message: str) -> None:
    found = builtins()
    before = names(found), found.presets()
    with pytest.raises(PluginError, match=message) as caught:
        register_plugin(found, plugin, "them")
    assert "them" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (names(found), found.presets()) == before


def test_an_exception_while_registering_leaves_nothing_behind() -> None:
    found = builtins()
    before = names(found)
    with pytest.raises(RuntimeError, match="boom"):
        register_plugin(found, Raising(), "them")
    assert names(found) == before


class FakePoint:
    """An entry point as importlib.metadata gives it, without an installed distribution."""

    def __init__(self, name: str, plugin: object, version: str = "1.2") -> None:
        self.name, self.plugin = name, plugin
        self.dist = SimpleNamespace(name=f"dist-{name}", version=version)

    def __lt__(self, other: "FakePoint") -> bool:
        return self.name < other.name

    def load(self) -> object:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[Any] = [
        FakePoint("z-good", Good()),
        FakePoint("a-broken", ImportError("No module named 'nowhere'")),
        FakePoint("b-mistyped", Mistyped()),
        FakePoint("c-raising", Raising()),
    ]
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: points if group == "tokenred" else []
    )


@pytest.mark.usefixtures("installed")
def test_a_failing_plugin_is_named_and_harmless() -> None:
    found, statuses = load_registry(third_party=True)
    assert found.get("coupler", "mine").owner == "dist-z-good"
    assert found.get("coupler", "sinkhorn").owner == "tokenred"
    assert [(s.name, s.distribution, s.version) for s in statuses] == [
        (name, f"dist-{name}", "1.2") for name in ("a-broken", "b-mistyped", "c-raising", "z-good")
    ]
    errors = {status.name: status.error for status in statuses}
    assert errors["a-broken"] == "ImportError: No module named 'nowhere'"
    assert "unknown hook 'register_coupler'" in str(errors["b-mistyped"])
    assert errors["c-raising"] == "RuntimeError: boom"
    assert errors["z-good"] is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("value", "loaded"), [("0", False), ("1", True), (None, True)])
def test_the_switch_keeps_strangers_out(
    monkeypatch: pytest.MonkeyPatch, value: str | None, loaded: bool
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    found, statuses = load_registry()
    assert (("coupler", "mine") in names(found)) == loaded
    assert bool(statuses) == loaded
    assert ("coupler", "sinkhorn") in names(found)


def test_an_entry_point_of_this_process_can_be_loaded() -> None:
    """The built-ins would load as a stranger's entry point: they come through the same door."""
    point = EntryPoint("builtin", "tokenred.strategies", "tokenred")
    found = Registry()
    register_plugin(found, point.load(), "somebody")
    assert names(found) == [each for each in names(builtins()) if each[0] != "stage"]
    assert {entry.owner for entry in found.entries()} == {"somebody"}


class MyScorer(Scorer):
    def score(self, said: str, answers: Any) -> float:
        return 0.0


class Judges:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("their-task", EmbeddedTask)
        register("their-scorer", MyScorer)


class CollidingTask:
    @hookimpl
    def register_strategies(self, register: Register) -> None:
        register("their-scorer", MyScorer)
        register("embedded", EmbeddedTask)


def test_a_plugin_brings_tasks_and_scorers() -> None:
    found = builtins()
    register_plugin(found, Judges(), "their-package")
    for role, brought in (("task", EmbeddedTask), ("scorer", MyScorer)):
        entry = found.get(role, f"their-{role}")
        assert (entry.factory, entry.config_class) == (brought, brought.config_class())
        assert entry.owner == "their-package"
    assert names(found) == names(builtins())  # none of them is a strategy


def test_a_taken_task_leaves_nothing_behind() -> None:
    found = builtins()
    with pytest.raises(PluginError, match="task 'embedded' of them is already taken by tokenred"):
        register_plugin(found, CollidingTask(), "them")
    assert "their-scorer" not in found.names("scorer")


class Family:
    @hookimpl
    def register_model_adapters(self, register: Register) -> None:
        register("TheirModel", "their_package.adapter:TheirAdapter")


class CollidingFamily:
    @hookimpl
    def register_model_adapters(self, register: Register) -> None:
        register("TheirModel", "their_package.adapter:TheirAdapter")
        register("LlavaOnevisionForConditionalGeneration", "their_package.adapter:TheirAdapter")


class ShapelessFamily:
    @hookimpl
    def register_model_adapters(self, register: Register) -> None:
        register("TheirModel", "their_package.adapter")


def test_a_plugin_brings_the_adapter_of_its_models() -> None:
    found = builtins()
    register_plugin(found, Family(), "their-package")
    assert found.adapters()["TheirModel"] == ("their_package.adapter:TheirAdapter", "their-package")


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (CollidingFamily(), "model adapter 'LlavaOnevisionFor.* is already taken by tokenred"),
        (ShapelessFamily(), "given as 'module:Class', their-package gives"),
    ],
)
def test_a_faulty_adapter_leaves_nothing_behind(plugin: object, sentence: str) -> None:
    found = builtins()
    before = found.adapters()
    with pytest.raises(PluginError, match=sentence):
        register_plugin(found, plugin, "their-package")
    assert found.adapters() == before


BY_NAME = """
from tokenred import hookimpl

@hookimpl
def register_strategies(register):
    register("near", ".parts.couplers:Near", "coupler")
    register("far", "by_name.parts.couplers:Far", "coupler")
    register("absent", ".nowhere:Near", "coupler")
    register("misspelt", ".parts.couplers:Nar", "coupler")
    register("raising", ".raising:Near", "coupler")
    register("unfit", ".parts.couplers:Near", "selector")
    register("no-strategy", ".parts.couplers:NearConfig", "coupler")

@hookimpl
def register_model_adapters(register):
    register("TheirModel", ".adapter:TheirAdapter")
"""
COUPLERS = """
from tokenred import Coupler, StrategyConfig

class NearConfig(StrategyConfig):
    size: int = 1

class Near(Coupler):
    "Near."
    config: NearConfig
    marginals = "none"
    def couple(self, cost, source_mass, anchor_mass): ...

class Far(Near):
    "Far."
"""


@pytest.fixture
def by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A plugin that is a package and names its classes, some of them in vain."""
    parts = tmp_path / "by_name" / "parts"
    parts.mkdir(parents=True)
    (parts.parent / "__init__.py").write_text(BY_NAME)
    (parts.parent / "raising.py").write_text("raise RuntimeError('boom\\nbang')")
    (parts / "__init__.py").touch()
    (parts / "couplers.py").write_text(COUPLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = builtins()
    register_plugin(found, import_module("by_name"), "them")
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "by_name"]:
        del sys.modules[name]


def test_a_class_given_by_name_is_imported_when_it_is_asked_for(by_name: Registry) -> None:
    near, far = (by_name.get("coupler", name) for name in ("near", "far"))
    assert near.strategy == "by_name.parts.couplers:Near"
    assert "by_name.parts.couplers" not in sys.modules
    assert (near.factory.__name__, far.factory.__name__) == ("Near", "Far")
    assert near.config_class is far.config_class
    assert near.config_class().size == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "by_name.nowhere:Near cannot be imported .*No module named"),
        ("misspelt", "by_name.parts.couplers:Nar cannot be imported .*'Nar'"),
        ("raising", "by_name.raising:Near cannot be imported .RuntimeError: boom bang"),
        ("no-strategy", "by_name.parts.couplers:NearConfig is no coupler, it derives from no role"),
    ],
)
def test_a_name_without_its_class_is_one_sentence_when_asked_for(
    by_name: Registry, name: str, sentence: str
) -> None:
    entry = by_name.get("coupler", name)
    for _ in range(2):
        with pytest.raises(PluginError, match=f"coupler '{name}' of them.*{sentence}") as caught:
            _ = entry.factory
        assert "\n" not in str(caught.value)


def test_a_class_of_another_role_is_refused_when_it_is_asked_for(by_name: Registry) -> None:
    with pytest.raises(PluginError, match="is no selector, it derives from the base of a coupler"):
        _ = by_name.get("selector", "unfit").config_class


def test_the_name_of_an_adapter_may_be_relative_too(by_name: Registry) -> None:
    assert by_name.adapters()["TheirModel"] == ("by_name.adapter:TheirAdapter", "them")


@pytest.mark.parametrize("second", ["mine", "sinkhorn"])
def test_the_packages_of_a_plugin_register_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    top = f"many_{second}"
    texts = {"": 'tokenred_plugins = (".one", ".two")'}
    for package, name in {"one": "first", "two": second}.items():
        texts[package] = (
            "import tokenred\n@tokenred.hookimpl\ndef register_strategies(register):\n"
            f"    register('{name}', '.parts:Coupler', 'coupler')\n"
        )
    for package, text in texts.items():
        (tmp_path / top / package).mkdir(parents=True)
        (tmp_path / top / package / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = builtins()
    before = names(found)
    if second == "sinkhorn":
        with pytest.raises(PluginError, match="coupler 'sinkhorn' of them is already taken"):
            register_plugin(found, import_module(top), "them")
        assert names(found) == before
        return
    register_plugin(found, import_module(top), "them")
    brought = [found.get("coupler", name) for name in ("first", second)]
    assert {each.owner for each in brought} == {"them"}
    assert [each.strategy for each in brought] == [
        f"{top}.{p}.parts:Coupler" for p in ("one", "two")
    ]


def test_broken_names_hide_nothing_from_the_list(
    by_name: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("about: [")
    by_name.add_other("preset", "broken", broken, "them")
    monkeypatch.setattr(plugins, "loaded", lambda: (by_name, []))
    for name, path in (("broken", broken), ("absent", tmp_path)):
        by_name.add_other("ablation", name, path, "them")
    with pytest.raises(SystemExit) as stop:
        main(["list", "--json"])
    assert not stop.value.code
    rows = json.loads(capsys.readouterr().out)
    theirs = {(row["kind"], row["name"]): row["summary"] for row in rows if row["owner"] == "them"}
    assert theirs["coupler", "near"] == "Near."
    assert theirs["coupler", "far"] == "Far."
    for key in [
        ("coupler", "absent"),
        ("coupler", "misspelt"),
        ("coupler", "raising"),
        ("preset", "broken"),
        ("ablation", "broken"),
        ("ablation", "absent"),
    ]:
        assert theirs[key].startswith("cannot be loaded: ")
    assert {"sinkhorn", "vanilla", "token-f1"} <= {row["name"] for row in rows}


def test_the_doctor_imports_what_a_plugin_names(
    by_name: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = [PluginStatus(name, name, "1") for name in ("them", "tokenred")]
    monkeypatch.setattr(plugins, "loaded", lambda: (by_name, statuses))
    theirs, ours = doctor.plugin_findings()
    assert (theirs.state, ours.state) == ("failed", "ok")
    assert "selector 'unfit' of them" in theirs.detail


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (Unspeakable(), "Unspeakable"),
        (BaseException("neither"), "BaseException: neither"),
        (RecursionError("too deep\nby far"), "RecursionError: too deep by far"),
    ],
)
def test_whatever_an_import_raises_disables_that_plugin_alone(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, told: str
) -> None:
    class Point:
        name, dist = "bad", None

        def __lt__(self, other: object) -> bool:
            return True

        def load(self) -> object:
            raise error

    monkeypatch.setattr(plugins, "entry_points", lambda group: [Point()])
    found, (status,) = load_registry(third_party=True)
    assert status.error == told
    assert found.presets()
