"""A strategy in one file, from the command line to the stored answers."""

import sqlite3
from pathlib import Path

import pytest

from tokenred import registry
from tokenred.cli import main
from tokenred.evaluation.manifest import STORE, read_run

NEAREST_TWO = Path(__file__).parents[2] / "docs/how-to/nearest_two.py"


def test_a_strategy_in_one_file_is_compared_resumed_and_told_apart_when_edited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(NEAREST_TWO.read_text())
    words = ["ablate", "cosine-merge", "--limit", "2", "--out", str(folder)]
    words += ["--plugin", str(file), "--set", "stages.intra_frame.coupler=nearest-two"]

    def ablate() -> str:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert not stop.value.code
        return capsys.readouterr().err

    def versions() -> set[str]:
        with sqlite3.connect(folder / STORE) as database:
            rows = database.execute("SELECT DISTINCT code_version FROM results")
            return {version for (version,) in rows if "mine.py=" in version}

    ablate()
    first = versions()
    assert len(first) == 1
    assert "0 results computed" in ablate()
    (row,) = [each for each in read_run(folder).rows if each.label == "cosine-merge"]
    assert {row.origin.code_version} == first
    assert row.config["stages"]["intra_frame"]["coupler"]["name"] == "nearest-two"
    file.write_text(file.read_text().replace("min(2,", "min(3,"))
    assert "2 results computed" in ablate()
    assert len(versions()) == 2
    assert "nearest-two" not in registry().names("coupler")
    with pytest.raises(SystemExit) as stop:
        main(["report", str(folder), "--format", "md", "--samples", "0"])  # without the file
    assert not stop.value.code
    assert "cosine-merge" in (folder / "report.md").read_text()
