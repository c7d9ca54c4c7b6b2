"""tokenred and all plugins of this repository as wheels, in a clean environment of their own.

Dependencies are borrowed from the running environment through a path file: nothing is downloaded.
"""

import json
import os
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "plugins" / "tokenred-template"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
METHODS = ["visionzip", "holitom-outer", "tome", "evs", "fastvid"]
ASK = """
import contextlib, io, json, sys
import tokenred
from tokenred.cli import main
from tokenred.testing import video_tokens

def run(pipeline):
    tokens = video_tokens(12, grid=(15, 15), needs=pipeline.needs, native_pool="bilinear")
    return pipeline.run(tokens).realised.n_tokens

def shown(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(arguments)
    return json.loads(out.getvalue())

mine = {"stages.intra_frame.coupler": "mutual-nearest"}
print(json.dumps({
    "where": tokenred.__file__,
    "presets": [str(path) for path, owner in tokenred.registry().presets().values()],
    "couplers": shown("list", "couplers", "--json"),
    "plugins": shown("plugins", "--json"),
    "mine": run(tokenred.load_pipeline("aot-paper", mine)),
    "methods": {name: run(tokenred.load_pipeline(name)) for name in sys.argv[1:]},
}))
"""


class Environment:
    """A clean virtual environment with wheels in it."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        places = {"base": str(folder), "platbase": str(folder)}
        self.python = Path(sysconfig.get_path("scripts", "venv", vars=places)) / "python"
        self.site = Path(sysconfig.get_path("purelib", "venv", vars=places))
        (self.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for wheel in wheels:  # of nothing but Python: to install is to unpack
            zipfile.ZipFile(wheel).extractall(self.site)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TOKENRED_")}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    for root in (ROOT, *PLUGINS):
        next(WheelBuilder(str(root)).build(directory=str(folder), versions=["standard"]))
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory, wheels):
    return Environment(tmp_path_factory.mktemp("clean"), wheels)


@pytest.fixture(scope="module")
def found(clean):
    """Return what one process in the clean environment sees and does."""
    done = clean.run("-c", ASK, *METHODS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_wheel_carries_presets_ablations_and_the_model(wheels):
    (wheel,) = [path for path in wheels if path.name.startswith("tokenred-")]
    names = zipfile.ZipFile(wheel).namelist()
    for pattern in ("presets/*.yaml", "ablations/*.yaml", "embedded/model/*"):
        source = sorted((ROOT / "tokenred").glob(pattern))
        assert source
        assert {f"tokenred/{path.relative_to(ROOT / 'tokenred')}" for path in source} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "training/"))]


def test_strategies_are_listed_with_their_owners(found):
    owners = {row["name"]: row["owner"] for row in found["couplers"]}
    assert owners["mutual-nearest"] == "tokenred-template"
    assert owners["sinkhorn"] == "tokenred"


def test_pipelines_of_wheels_run(found, clean):
    assert Path(found["where"]).is_relative_to(clean.folder)
    assert all(Path(place).is_relative_to(clean.folder) for place in found["presets"])
    n_tokens = 12 * 7  # ceil(64 cells * 0.10) a frame
    assert found["mine"] == n_tokens
    assert found["methods"] == dict.fromkeys(METHODS, n_tokens)


def test_every_plugin_loads_from_its_wheel(found):
    rows = {row["distribution"]: row["error"] for row in found["plugins"]}
    expected = {path.name for path in PLUGINS}
    assert {name: rows.get(name, "missing") for name in expected} == dict.fromkeys(expected)
    template = next(row for row in found["plugins"] if row["distribution"] == "tokenred-template")
    assert template["brings"] == ["coupler mutual-nearest"]


def test_plugins_can_be_switched_off(clean):
    done = clean.run("-m", "tokenred", "--no-plugins", "list", "couplers", "--json")
    names = {row["name"] for row in json.loads(done.stdout)}
    assert "mutual-nearest" not in names
    assert "sinkhorn" in names


def test_settings_of_the_plugin_are_checked(clean):
    setting = "stages.intra_frame.coupler={name: mutual-nearest, max_coast: 1}"
    done = clean.run("-m", "tokenred", "config", "hash", "aot-paper", "--set", setting)
    assert done.returncode == 2
    assert "unknown key 'max_coast'; did you mean 'max_cost'?" in done.stderr


def test_its_own_tests_pass(clean):
    done = clean.run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEMPLATE))
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_a_broken_plugin_is_named_and_does_no_harm(clean):
    info = clean.site / "tokenred_broken-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenred-broken\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text("[tokenred]\nbroken = tokenred_broken\n")
    (clean.site / "tokenred_broken.py").write_text("import a_module_that_nobody_has\n")
    done = clean.run("-m", "tokenred", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["broken"]["distribution"] == "tokenred-broken"
    assert rows["broken"]["version"] == "9.9"
    assert "a_module_that_nobody_has" in rows["broken"]["error"]
    assert rows["template"]["error"] is None
    listed = clean.run("-m", "tokenred", "list", "couplers")
    assert listed.returncode == 0
    assert "mutual-nearest" in listed.stdout
    assert "plugin broken did not load" in listed.stderr
