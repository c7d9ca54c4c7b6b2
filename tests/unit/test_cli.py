import inspect
import json
import subprocess
import sys

import pytest
import typer
import yaml

from tokenred.cli import app, main
from tokenred.cli._common import align_columns, parse_overrides
from tokenred.cli._talk import command
from tokenred.errors import ConfigError
from tokenred.pipeline import load_config, load_pipeline
from tokenred.plugins import registry
from tokenred.registry import HARNESS_ROLES, ROLES


@pytest.fixture
def tokenred(capsys):
    """Run the command line in this process; return exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        streams = capsys.readouterr()
        return stop.value.code or 0, streams.out, streams.err

    return call


def test_version_and_help_go_to_stdout(tokenred):
    code, out, err = tokenred("--version")
    assert (code, out, err) == (0, "tokenred 0.1.0\n", "")
    code, out, err = tokenred("--help")
    assert code == 0
    assert err == ""
    assert all(verb in out for verb in ("run", "list", "config", "plugins", "doctor"))


def test_list_json_is_the_registry(tokenred):
    code, out, err = tokenred("list", "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert {(entry.role, entry.name) for entry in registry().entries()} <= {
        (row["kind"], row["name"]) for row in rows
    }
    assert set(registry().presets()) == {row["name"] for row in rows if row["kind"] == "preset"}
    assert all(row["owner"].startswith("tokenred") and row["summary"] for row in rows)


def test_list_says_what_the_docstrings_and_the_presets_say(tokenred):
    _, out, _ = tokenred("list", "--json")
    shown = {(row["kind"], row["name"]): row["summary"] for row in json.loads(out)}
    for role in (*ROLES, *HARNESS_ROLES):
        for entry in registry().entries(role):
            paragraph = inspect.getdoc(entry.factory).split("\n\n")[0]
            assert shown[role, entry.name] == " ".join(paragraph.split())
    for name in registry().presets():
        assert shown["preset", name] == load_config(name).about.summary


def test_list_one_kind_names_owners(tokenred):
    _, out, _ = tokenred("list", "couplers", "--long")
    lines = out.splitlines()
    assert len(lines) == len(registry().entries("coupler"))
    assert any(line.split()[:3] == ["coupler", "sinkhorn", "tokenred"] for line in lines)


@pytest.mark.parametrize(("kind", "names"), [("tasks", "embedded local"), ("scorers", "token-f1")])
def test_list_knows_what_a_comparison_is_made_of(tokenred, kind, names):
    _, out, _ = tokenred("list", kind, "--json")
    rows = json.loads(out)
    assert set(names.split()) <= {row["name"] for row in rows}
    assert {row["kind"] for row in rows} == {kind.removesuffix("s")}
    assert all(row["summary"] for row in rows)


def test_show_prints_a_file_that_loads_to_the_same_pipeline(tokenred, tmp_path):
    _, out, _ = tokenred("config", "show", "aot-paper", "--set", "intra_frame.coupler.epsilon=0.2")
    assert yaml.safe_load(out)["stages"]["intra_frame"]["coupler"]["epsilon"] == 0.2
    file = tmp_path / "mine.yaml"
    file.write_text(out)
    wanted = load_pipeline("aot-paper", {"stages.intra_frame.coupler.epsilon": 0.2}).config
    _, digits, _ = tokenred("config", "hash", str(file))
    assert digits.strip() == wanted.config_id


def test_hash_json_carries_what_is_hashed(tokenred):
    _, out, _ = tokenred("config", "hash", "random", "--json")
    data = json.loads(out)
    config = load_pipeline("random").config
    assert data == {
        "name": "random",
        "config_id": config.config_id,
        "canonical": json.loads(json.dumps(config.canonical())),
    }


def test_schema_knows_every_registered_strategy(tokenred):
    _, out, _ = tokenred("config", "schema")
    text = json.dumps(json.loads(out))
    assert all(f'"const": "{entry.name}"' in text for entry in registry().entries())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rn"], 2, "Did you mean 'run'"),
        (["list", "coupler"], 2, "did you mean 'couplers'?"),
        (["config", "hash", "aot-papr"], 2, "did you mean 'aot-paper'?"),
        (["config", "hash", "random", "--set", "budget.ratio=1"], 2, "budget.ratio: unknown key"),
        (["config", "hash", "random", "--set", "budget"], 2, "write --set PATH=VALUE"),
        (["config", "hash", "random", "--set", "seed=[1"], 2, "seed: not valid YAML: "),
        (["run", "no-such.mp4", "--ask", "how many digits?"], 1, "no-such.mp4 does not exist"),
        (["run", "v.mp4", "--ask", "?", "--pipeline", "aotx"], 2, "unknown pipeline 'aotx'"),
    ],
)
def test_errors_are_one_sentence_on_stderr(tokenred, arguments, code, said):
    found, out, err = tokenred(*arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_debug_adds_the_traceback(tokenred):
    code, _, err = tokenred("--debug", "config", "hash", "aot-papr")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("tokenred: unknown pipeline")


def test_every_number_on_the_command_line_has_bounds():
    def numbers(command, path):
        for name, child in getattr(command, "commands", {}).items():
            yield from numbers(child, f"{path} {name}")
        for parameter in command.params:
            if parameter.type_descriptor.annotation in (int, float):
                yield f"{path} {parameter.name}", parameter

    found = dict(numbers(typer.main.get_command(app), ""))
    assert len(found) > 15
    checked = {" flops retention_ratio", " viz retention"}  # by the budget and the formula
    open_ended = {name for name, each in found.items() if None in (each.min, each.max)}
    assert open_ended == checked


@pytest.mark.parametrize(
    "arguments",
    [
        ["flops", "x" * 5000],
        ["flops", f"{'x' * 5000}.yaml"],
        ["report", "x" * 5000],
        ["export", "x" * 5000, "x.csv"],
        ["ablate", "x" * 5000],
        ["ablate", f"{'a/' * 3000}x.yaml"],
        ["ablate", "vanilla", "--task", "x" * 5000],
        ["config", "show", "x" * 5000],
        ["bench", "random", "--out", ""],
        ["bench", "random", "--retention", "9" * 5000],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
def test_names_that_nothing_can_have_are_refused_in_a_short_sentence(tokenred, arguments):
    code, out, err = tokenred(*arguments)
    assert (code in (1, 2), out) == (True, "")
    assert err.startswith("tokenred: ")
    assert "unexpected" not in err
    assert len(err) < 320


def test_unforeseen_errors_are_one_sentence_too(tokenred, monkeypatch):
    def fail():
        raise RuntimeError("out of luck")

    monkeypatch.setattr("tokenred.plugins.plugin_statuses", fail)
    code, _, err = tokenred("list", "presets")
    assert code == 1
    assert err == "tokenred: unexpected RuntimeError: out of luck; --debug shows where\n"


def test_doctor_fails_with_four_when_something_installed_is_broken(tokenred, monkeypatch):
    def broken(*_):
        raise OSError("the weights are gone")

    monkeypatch.setattr("tokenred.embedded.load_embedded_model", broken)
    code, out, err = tokenred("doctor", "--json")
    states = {row["name"]: (row["state"], row["detail"]) for row in json.loads(out)}
    assert code == 4
    assert states["embedded model"] == ("failed", "the weights are gone")
    assert states["presets"] == ("ok", f"{len(registry().presets())} load")
    assert "1 of" in err


def test_doctor_calls_an_absent_extra_missing_not_failed(tokenred, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    _, out, _ = tokenred("doctor", "--json")
    states = {row["name"]: row for row in json.loads(out)}
    assert states["extra pot"]["state"] == "missing"
    assert "tokenred[pot]" in states["extra pot"]["detail"]


def test_budget_errors_exit_with_three(tokenred, monkeypatch):
    from tokenred.errors import BudgetError

    def refuse(*_):
        raise BudgetError("11 tokens cannot be had; the nearest is 12")

    monkeypatch.setattr("tokenred.pipeline.config.load_config", refuse)
    code, _, err = tokenred("config", "hash", "random")
    assert (code, err) == (3, "tokenred: 11 tokens cannot be had; the nearest is 12\n")


def test_overrides_are_yaml():
    pairs = ["a.b=0.1", "c=[3, 3]", "d=null", "e=no-merge", "f={name: x, y: 1}", "g="]
    assert parse_overrides(pairs) == {
        "a.b": 0.1,
        "c": [3, 3],
        "d": None,
        "e": "no-merge",
        "f": {"name": "x", "y": 1},
        "g": None,
    }
    with pytest.raises(ConfigError, match="PATH=VALUE"):
        parse_overrides(["=1"])


def test_columns_align_and_never_cut():
    assert align_columns([["a", "bb", "c" * 200], ["aaa", "b", "c"]]).splitlines() == [
        "a    bb  " + "c" * 200,
        "aaa  b   c",
    ]
    assert align_columns([]) == ""


def test_the_script_is_installed_and_every_verb_has_help():
    done = subprocess.run(
        [sys.executable, "-c", "from tokenred.cli import main; main(['doctor', '--help'])"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Exits with 4" in done.stdout
    assert all(command.help for command in typer.main.get_command(app).commands.values())


def test_a_command_to_paste_starts_as_this_one_was_typed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "tokenred"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(sys, "argv", ["bin/tokenred"])
    assert command("report", "runs/my run") == "bin/tokenred report 'runs/my run'"
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert command("report", "runs/x") == f"{program} report runs/x"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command("report", "runs/x") == "tokenred report runs/x"
    for other in ("-c", "/usr/bin/pytest", str(tmp_path / "absent" / "tokenred")):
        monkeypatch.setattr(sys, "argv", [other])
        assert command("report", "runs/x") == "tokenred report runs/x"
