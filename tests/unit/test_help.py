"""What a user sees first: help with examples that parse, lists that fit, schemas that hold."""

import json
import shlex
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from tokenred.cli import _Verbs
from tokenred.plugin_files import unload_plugin_file
from tokenred.plugins import plugin_statuses, registry

VERBS = _Verbs()
OWN = [name for name in VERBS if registry().others("verb")[name][1] == "tokenred"]


def examples_of(name):
    text = VERBS[name].epilog or ""
    return [line.strip() for line in text.split("\n") if line.strip().startswith("tokenred ")]


@pytest.mark.parametrize("name", OWN)
def test_every_verb_has_an_example_that_parses(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import tokenred\n"
        '@tokenred.register("mine")\n'
        "class Mine(tokenred.interfaces.AnchorSelector):\n"
        "    def select(self, tokens, n_anchors, *, generator):\n"
        "        return tokens.keep\n"
    )
    found = examples_of(name)
    assert found
    for example in found:
        program, verb, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, verb) == ("tokenred", name)
        command = VERBS[name]
        context = click.Context(command, info_name=name)
        if isinstance(command, click.Group):
            verb, *arguments = arguments
            command = command.commands[verb]
            context = click.Context(command, info_name=verb, parent=context)
        command.parse_args(context, arguments)  # raises for an option that there is not
    for status in plugin_statuses():
        if status.file:
            unload_plugin_file(status.file)


def test_help_shows_the_examples(capsys):
    from tokenred.cli import main

    with pytest.raises(SystemExit):
        main(["ablate", "--help"])
    assert "tokenred ablate --pipelines aot,visionzip,fastvid" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 140])
@pytest.mark.parametrize("kind", [(), ("selectors",), ("presets",)])
def test_lists_fit_the_terminal(columns, kind, monkeypatch, capsys):
    from tokenred.cli import main

    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        main(["list", *kind])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert any("local-global" in line for line in lines) == (kind != ("presets",))
    assert any("visionzip-released" in line for line in lines) == (kind != ("selectors",))


def test_long_lists_cut_nothing(capsys, monkeypatch):
    from tokenred.cli import main

    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit):
        main(["list", "couplers", "--long"])
    out = capsys.readouterr().out
    assert "Couple by entropic optimal transport with both marginals prescribed." in out
    assert "…" not in out


def test_doctor_is_silent_where_all_is_well(capsys):
    from tokenred.cli import main

    with pytest.raises(SystemExit):
        main(["doctor"])
    short = capsys.readouterr()
    assert not any(line.startswith("ok") for line in short.out.splitlines())
    assert "checks are well" in short.err
    with pytest.raises(SystemExit):
        main(["doctor", "--long"])
    assert any(line.startswith("ok") for line in capsys.readouterr().out.splitlines())


def schema(kind, capsys):
    from tokenred.cli import main

    with pytest.raises(SystemExit):
        main(["config", "schema", kind])
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_shipped_ablations_meet_their_schema(capsys):
    valid = schema("ablation", capsys)
    files = [Path(path) for path, _ in registry().ablations().values()]
    assert files
    for path in files:
        content = yaml.safe_load(path.read_text())
        assert [error.message for error in valid.iter_errors(content)] == []
    assert not valid.is_valid({"name": "x", "rows": {"a": {"pipelin": "aot"}}})


def test_tasks_meet_their_schema(capsys):
    valid = schema("task", capsys)
    assert valid.is_valid({"name": "local", "path": "q.jsonl", "frames": 8})
    assert not valid.is_valid({"name": "local", "path": "q.jsonl", "frames": "many"})
    assert not valid.is_valid({"path": "q.jsonl"})


def test_a_schema_that_there_is_not(capsys):
    from tokenred.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["config", "schema", "ablations"])
    assert stop.value.code == 2
    assert "did you mean 'ablation'?" in capsys.readouterr().err
