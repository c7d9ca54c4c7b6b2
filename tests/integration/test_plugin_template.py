"""tokenred and all plugins of this repository as wheels, in a clean environment of their own.

Dependencies are borrowed from the running environment through a path file: nothing is downloaded.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "plugins" / "tokenred-template"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
RUN_PIPELINE = """
import json, torch, tokenred
pipeline = tokenred.load_pipeline("aot-paper", {"stages.intra_frame.coupler": "mutual-nearest"})
cues = {name: torch.rand(4, 225) for name in pipeline.needs}
tokens = tokenred.VisualTokens.of(
    torch.randn(4, 225, 8), (15, 15), cues=cues, native_pool="bilinear"
)
reduced = pipeline.run(tokens)
print(json.dumps({"where": tokenred.__file__, "n_tokens": reduced.realised.n_tokens}))
"""


RUN_METHODS = """
import json, sys, tokenred
from tokenred.testing import video_tokens
found = {}
for name in sys.argv[1:]:
    pipeline = tokenred.load_pipeline(name)
    tokens = video_tokens(frames=12, grid=(15, 15), needs=pipeline.needs, native_pool="bilinear")
    found[name] = pipeline.run(tokens).realised.n_tokens
places = [str(path) for path, owner in tokenred.registry().presets().values()]
print(json.dumps({"n_tokens": found, "places": places}))
"""


class Environment:
    """A clean virtual environment with wheels in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        places = {"base": str(folder), "platbase": str(folder)}
        self.bin = Path(sysconfig.get_path("scripts", "venv", vars=places))
        self.site = Path(sysconfig.get_path("purelib", "venv", vars=places))
        (self.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TOKENRED_")}
        environment.pop("PYTHONPATH", None)
        return subprocess.run(
            [self.bin / program, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*PIP, *build, *map(str, (ROOT, *PLUGINS))], check=True)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory, wheels):
    environment = Environment(tmp_path_factory.mktemp("clean"))
    python = str(environment.bin / "python")
    install = ["--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([*PIP, *install, *map(str, wheels)], check=True)
    return environment


def test_wheel_carries_presets_ablations_and_the_model(wheels):
    (wheel,) = [path for path in wheels if path.name.startswith("tokenred-")]
    names = zipfile.ZipFile(wheel).namelist()
    for pattern in ("presets/*.yaml", "ablations/*.yaml", "embedded/model/*"):
        source = sorted((ROOT / "tokenred").glob(pattern))
        assert source
        assert {f"tokenred/{path.relative_to(ROOT / 'tokenred')}" for path in source} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "training/"))]


def test_command_line_lists_the_plugin_with_its_owner(clean):
    done = clean.run("tokenred", "list", "couplers", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert rows["mutual-nearest"]["owner"] == "tokenred-template"
    assert rows["sinkhorn"]["owner"] == "tokenred"


def test_plugins_can_be_switched_off(clean):
    done = clean.run("tokenred", "--no-plugins", "list", "couplers", "--json")
    names = {row["name"] for row in json.loads(done.stdout)}
    assert "mutual-nearest" not in names
    assert "sinkhorn" in names


def test_a_pipeline_with_the_plugin_runs(clean):
    done = clean.run("python", "-c", RUN_PIPELINE)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert Path(report["where"]).is_relative_to(clean.folder)
    assert report["n_tokens"] == 4 * 7  # ceil(64 cells * 0.10) a frame


def test_methods_of_installed_wheels_run(clean):
    names = ["visionzip", "holitom-outer", "tome", "evs", "fastvid"]
    done = clean.run("python", "-c", RUN_METHODS, *names)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["n_tokens"] == dict.fromkeys(names, 12 * 7)
    assert all(Path(place).is_relative_to(clean.folder) for place in report["places"])


def test_every_plugin_loads_from_its_wheel(clean):
    done = clean.run("tokenred", "plugins", "--json")
    rows = {row["distribution"]: row["error"] for row in json.loads(done.stdout)}
    expected = {path.name for path in PLUGINS}
    assert {name: rows.get(name, "missing") for name in expected} == dict.fromkeys(expected)


def test_settings_of_the_plugin_are_checked(clean):
    setting = "stages.intra_frame.coupler={name: mutual-nearest, max_coast: 1}"
    done = clean.run("tokenred", "config", "hash", "aot-paper", "--set", setting)
    assert done.returncode == 2
    assert "unknown key 'max_coast'; did you mean 'max_cost'?" in done.stderr


def test_its_own_tests_pass(clean):
    done = clean.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEMPLATE))
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_a_broken_plugin_is_named_and_does_no_harm(clean):
    info = clean.site / "tokenred_broken-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenred-broken\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text("[tokenred]\nbroken = tokenred_broken\n")
    (clean.site / "tokenred_broken.py").write_text("import a_module_that_nobody_has\n")
    done = clean.run("tokenred", "plugins", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["broken"]["distribution"] == "tokenred-broken"
    assert rows["broken"]["version"] == "9.9"
    assert "a_module_that_nobody_has" in rows["broken"]["error"]
    assert rows["template"]["error"] is None
    assert rows["template"]["brings"] == ["coupler mutual-nearest"]
    listed = clean.run("tokenred", "list", "couplers")
    assert listed.returncode == 0
    assert "mutual-nearest" in listed.stdout
    assert "plugin broken did not load" in listed.stderr
