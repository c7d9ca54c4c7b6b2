"""The layers of the architecture, as pyproject.toml states them, hold - and can be broken."""

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]


def _lint(cwd, *arguments):
    return subprocess.run(
        [*LINT, "--no-cache", *arguments], cwd=cwd, capture_output=True, text=True
    )


def test_layers_hold():
    done = _lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_every_package_and_module_has_a_layer():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = [c["layers"] for c in contracts["contracts"] if c["type"] == "layers"]
    named = {
        name.strip(" ()").removeprefix("tokenred.")
        for layer in layers
        for name in layer.replace("|", ":").split(":")
    }
    present = {
        path.stem
        for path in (ROOT / "tokenred").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert present - {"__init__", "__main__"} <= named


def test_a_broken_layer_is_found(tmp_path):
    package = tmp_path / "tokenred"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "types.py").write_text("from tokenred import pipeline\n")
    (package / "pipeline.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        textwrap.dedent(
            """
            [tool.importlinter]
            root_package = "tokenred"
            [[tool.importlinter.contracts]]
            name = "layers"
            type = "layers"
            layers = ["tokenred.pipeline", "tokenred.types"]
            """
        )
    )
    assert _lint(tmp_path).returncode != 0
