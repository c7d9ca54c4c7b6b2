"""What is quick stays quick: nothing is imported before it is needed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tokenred.cli import app

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "jaxtyping",
    "ot",
    "sklearn",
    "scipy",
    "matplotlib",
    "av",
    "PIL",
    "pandas",
    "hypothesis",
    "ray",
    "rich",
}
CALL = """
import contextlib, io, json, sys
from tokenred.cli import main
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            main(words)
    except SystemExit as stop:
        assert not stop.code and out.getvalue(), words
print(json.dumps(sorted(sys.modules)))
"""
REGISTER = """
import json, sys
from tokenred import registry
assert {"tokenred", *sys.argv[1:]} <= {entry.owner for entry in registry().entries()}
print(json.dumps(sorted(sys.modules)))
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """Return the packages that a new process has imported in the end."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def verbs(command: Any, *path: str) -> Iterator[list[str]]:
    yield [*path, "--help"]
    for name, child in getattr(command, "commands", {}).items():
        yield from verbs(child, *path, name)


def test_the_package_alone_is_light() -> None:
    found = loaded("import tokenred, json, sys; print(json.dumps(sorted(sys.modules)))")
    assert not found & {*HEAVY, "pydantic", "yaml", "typer"}


def test_help_and_version_import_nothing_heavy() -> None:
    calls = [["--version"], *verbs(typer.main.get_command(app))]
    assert len(calls) > 15
    assert not loaded(CALL, json.dumps(calls)) & {*HEAVY, "yaml"}


@pytest.mark.parametrize("verb", ["list", "plugins"])
def test_what_is_registered_is_shown_without_importing_it(verb: str) -> None:
    assert not loaded(CALL, json.dumps([[verb]])) & HEAVY


def test_plugins_of_this_repository_register_by_name() -> None:
    assert not loaded(REGISTER, "tokenred-methods") & {*HEAVY, "pydantic"}


def test_a_pipeline_imports_its_own_strategies_and_no_model_library() -> None:
    code = (
        "import json, sys, tokenred; tokenred.load_pipeline('random'); "
        "print(json.dumps([name.replace('.', '/') for name in sys.modules]))"
    )
    found = loaded(code)
    assert {"torch", "tokenred/strategies/selectors/random"} <= found
    assert not found & (HEAVY - {"torch", "numpy", "jaxtyping"})
    assert "tokenred/strategies/couplers/sinkhorn" not in found
