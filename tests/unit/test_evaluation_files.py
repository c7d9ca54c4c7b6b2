"""Files are written whole or not at all, and never in the place of something else."""

import os
from pathlib import Path

import pytest

from tokenred import InputError
from tokenred.cli import main
from tokenred.evaluation.files import write_whole


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name, sentence in [
        ("folder", "it is a folder"),
        ("pipe", "it is a device or a pipe"),
        ("link", "it is a device or a pipe"),
        ("gone/x", "there is no folder"),
    ]:
        with pytest.raises(InputError, match=f"{name} cannot be written: {sentence}"):
            write_whole(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]


def test_a_file_is_replaced_by_the_new_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_whole(tmp_path / "x", text)
    assert (tmp_path / "x").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_bench_says_so_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("tokenred.cli.bench.load", load)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "random", "--out", str(tmp_path / "pipe")])
    assert stop.value.code == 1
    assert "cannot be written: it is a device or a pipe" in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()
