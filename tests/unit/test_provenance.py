"""Versions of code: what changes them, and what must not."""

from pathlib import Path

import pytest

import tokenred
from tokenred.evaluation import provenance
from tokenred.evaluation.provenance import code_version, hash_sources, package_version
from tokenred.evaluation.task import load_task
from tokenred.evaluation.tasks.embedded import EmbeddedTask
from tokenred.pipeline import load_config
from tokenred.plugins import registry
from tokenred.registry import Entry

SOURCE = '''"""A module."""

class Thing:
    """A class."""

    limit = 3
    """What an attribute is for."""

    def grow(self, by: int = 1) -> int:
        """A method."""
        return self.limit + by  # a comment
'''
PLACES = ("types.py", "kernels/merge.py", "cli/run.py", "report/table.py", "testing/checks.py")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(provenance, "REMEMBERED", tmp_path / "remembered")
    for name in PLACES:
        path = tmp_path / "package" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(SOURCE)
    return tmp_path / "package"


def test_what_was_found_is_remembered(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hash_sources(package)
    (file,) = provenance.REMEMBERED.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "_code", None)  # nobody reads the sources again
        assert hash_sources(package) == found
    file.write_text("no hash")
    assert hash_sources(package) == found == file.read_text()
    for nowhere in (package / "types.py", Path("~nobody-of-this-name/code")):  # no folder, no home
        monkeypatch.setattr(provenance, "REMEMBERED", nowhere)
        assert hash_sources(package) == found


@pytest.mark.parametrize(
    "name", ["types.py", "kernels/merge.py", "kernels/new.py", "kernels/new.c"]
)
def test_code_that_can_change_a_result_changes_the_version(package: Path, name: str) -> None:
    before = hash_sources(package)
    (package / name).write_text("x = 2\n")
    assert hash_sources(package) != before


@pytest.mark.parametrize("name", ["cli/run.py", "report/table.py", "testing/new.py", "notes.txt"])
def test_what_can_change_no_result_does_not(package: Path, name: str) -> None:
    before = hash_sources(package)
    (package / name).write_text("x = 2\n")
    assert hash_sources(package) == before


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("A module.", "Another sentence.", True),
        ("A class.", "Another sentence.", True),
        ("A method.", "Another\n\n        sentence.", True),
        ("What an attribute is for.", "Another sentence.", True),
        ("# a comment", "# another", True),
        ("\n    limit", "\n\n    limit", True),
        ("limit = 3", "limit = 4", False),
        ("by: int = 1", "by: int = 2", False),
        ("self.limit + by", "self.limit - by", False),
    ],
)
def test_words_about_the_code_do_not_count(package: Path, old: str, new: str, same: bool) -> None:
    before = hash_sources(package)
    assert SOURCE.count(old) == 1
    (package / "types.py").write_text(SOURCE.replace(old, new))
    assert (hash_sources(package) == before) == same


def test_a_file_that_moves_changes_the_version(package: Path) -> None:
    before = hash_sources(package)
    (package / "types.py").rename(package / "other.py")
    assert hash_sources(package) != before


def test_built_in_strategies_have_the_packages_version() -> None:
    assert code_version(load_config("aot-paper")) == package_version()
    assert package_version().startswith(f"{tokenred.__version__}+")


def test_a_plugins_version_joins_that_of_the_rows_that_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = registry().get("selector", "random")
    own = Entry("selector", "own", entry.factory, "pytest")
    monkeypatch.setitem(registry()._entries, ("selector", "own"), own)
    with_plugin = load_config("aot-paper", {"stages.intra_frame.selector": "own"})
    assert code_version(with_plugin) == f"{package_version()} pytest={pytest.__version__}"
    task = EmbeddedTask().config
    assert code_version(with_plugin, task) == code_version(with_plugin)
    assert code_version(load_config("aot-paper")) == package_version()


def test_a_plugin_that_brings_the_task_or_its_scorer_counts_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").touch()
    entry = registry().get("scorer", "contains")
    own = Entry("scorer", "own", entry.factory, "pytest")
    monkeypatch.setitem(registry()._entries, ("scorer", "own"), own)
    pipeline = load_config("aot-paper")
    for scorer, expected in (("own", f" pytest={pytest.__version__}"), ("contains", "")):
        settings = {"name": "local", "path": str(tmp_path), "scorer": scorer}
        found = code_version(pipeline, load_task(settings).config)
        assert found == f"{package_version()}{expected}"
