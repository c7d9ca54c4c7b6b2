"""What was computed is kept and found again, whatever is done to its folder."""

import csv
import io
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation_toys import ToyModel, ToyTask, run_toy, toy_ablation
from tokenred.cli import main
from tokenred.cli.ablate import _folder_name
from tokenred.errors import InputError, TokenredError
from tokenred.evaluation.ablation import Published
from tokenred.evaluation.export import export_answers
from tokenred.evaluation.files import inert
from tokenred.evaluation.manifest import (
    STORE,
    Run,
    make_run,
    read_run,
    read_runs,
    run_key,
    write_run,
)
from tokenred.evaluation.store import Store
from tokenred.kernels.native import library
from tokenred.report.table import _escaped
from tokenred.report.text import csv_text


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with Store(tmp_path / STORE) as store:
        planned, _ = run_toy(store, 3)
    found = make_run(toy_ablation(), planned, ToyTask(), ToyModel(), 3)
    write_run(found, tmp_path)
    return found


def test_another_run_in_a_folder_leaves_the_first(run: Run, tmp_path: Path) -> None:
    smaller = replace(run, sample_ids=run.sample_ids[:1])
    write_run(smaller, tmp_path)
    assert read_run(tmp_path) == smaller
    assert list(read_runs(tmp_path)) == [run_key(smaller), run_key(run)]
    assert read_run(tmp_path, run_key(run)) == run
    with pytest.raises(InputError, match="holds no run 'nothing'"):
        read_run(tmp_path, "nothing")
    write_run(run, tmp_path)  # again: it is the latest, and there are two still
    assert list(read_runs(tmp_path)) == [run_key(run), run_key(smaller)]
    assert len(list(tmp_path.glob("run*.json"))) == 2


def test_the_same_run_of_other_code_takes_its_place(run: Run, tmp_path: Path) -> None:
    rows = tuple(replace(row, origin=replace(row.origin, code_version="other")) for row in run.rows)
    write_run(replace(run, rows=rows), tmp_path)
    assert [path.name for path in tmp_path.glob("run*.json")] == ["run.json"]


def test_answers_of_earlier_runs_keep_their_labels(run: Run, tmp_path: Path) -> None:
    write_run(replace(run, rows=run.rows[:1], sample_ids=run.sample_ids[:1]), tmp_path)
    export_answers(tmp_path, tmp_path / "all.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text(encoding="utf-8"))))
    assert lines
    assert all(line["row"] for line in lines)


def test_answers_of_another_model_have_no_label_of_this_one(run: Run, tmp_path: Path) -> None:
    rows = tuple(
        replace(row, origin=replace(row.origin, model_revision="other")) for row in run.rows
    )
    (tmp_path / "run.json").unlink()
    write_run(replace(run, rows=rows), tmp_path)
    export_answers(tmp_path, tmp_path / "all.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "all.csv").read_text(encoding="utf-8"))))
    assert lines
    assert not any(line["row"] for line in lines)


def test_report_tells_of_other_runs_and_takes_one(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(replace(run, sample_ids=run.sample_ids[:2]), tmp_path)
    for more, size in (([], "on 2 samples"), (["--run", run_key(run)], "on 3 samples")):
        main_exit(["report", str(tmp_path), "--format", "md", *more])
        said = capsys.readouterr().err
        assert size in said
        assert "also here: --run " in said


def main_exit(arguments: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert (stop.value.code or 0) == code


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        (("components", "embedded", None), "components"),
        (("components", "/data/my videos.jsonl", None), "components-my-videos"),
        (("table1", "embedded", "lmms-lab/llava-onevision"), "table1-llava-onevision"),
        (("../../etc", "embedded", None), "etc"),
        (("a/b|c", "lmms-eval:mvbench,videomme", "x"), "a-b-c-lmms-eval-mvbench-videomme-x"),
        (("..", "embedded", None), "_"),
    ],
)
def test_a_folder_is_named_by_what_is_run(given: tuple[str, str, str | None], folder: str) -> None:
    assert _folder_name(*given) == folder


def test_a_printed_score_stands_where_it_was_measured() -> None:
    published = Published(source="x", scores={"AOT": 57.0, "other": {0.25: 58.0}})
    assert published.score("AOT", 0.10, [0.10]) == 57.0
    assert published.score("AOT", 0.25, [0.10]) is None
    assert published.score("AOT", 0.25, []) == 57.0
    assert published.score("AOT", None, [0.10]) == 57.0
    assert published.score("other", 0.25, [0.10]) == 58.0


@pytest.mark.parametrize("change", ["delete", "replace"])
def test_a_store_that_goes_away_is_no_success(tmp_path: Path, change: str) -> None:
    path = tmp_path / STORE
    with Store(path) as store:
        run_toy(store, 1)
        path.unlink()
        if change == "replace":
            path.write_bytes(b"")
        with pytest.raises(TokenredError, match="was deleted or replaced while it was in use"):
            store.check_file()
        with pytest.raises(TokenredError, match="was deleted or replaced"):
            run_toy(store, 2)


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE results SET option_scores = '{'", "sample 'toy/000', question 0"),
        ("UPDATE results SET option_scores = '5'", "sample 'toy/000', question 0"),
        ("UPDATE results SET frame_indices = 'x'", "sample 'toy/000', question 0"),
        ("UPDATE results SET n_tokens = 'many'", "n_tokens is no number"),
        ("UPDATE results SET reducer_ms = x'00'", "reducer_ms is no number"),
    ],
)
def test_spoilt_answers_are_named(run: Run, tmp_path: Path, statement: str, fault: str) -> None:
    with sqlite3.connect(tmp_path / STORE) as database:
        database.execute(statement)
    unread = pytest.raises(TokenredError, match="holds an answer that cannot be read")
    with Store(tmp_path / STORE) as store, unread as caught:
        store.records(run.rows[0].origin, run.sample_ids)
    assert fault in str(caught.value)
    assert len(str(caught.value)) < 400


def test_cells_are_no_formulas() -> None:
    for text in ("=1+1", "+1", "-a", "@x", "\t=x", " =x", "\n=x", "\N{FULLWIDTH EQUALS SIGN}x"):
        assert inert(text) == f"'{text}"
        (line,) = csv.DictReader(io.StringIO(csv_text([{"a": text}]), newline=""))
        assert line["a"] == f"'{text}"
    assert [inert(each) for each in ("a=b", -1.5, None, "")] == ["a=b", -1.5, None, ""]


def test_markdown_cells_hold_no_html() -> None:
    assert _escaped("<b>x</b>|y\nz <0.001") == "&lt;b>x&lt;/b>\\|y z <0.001"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes are of POSIX")
def test_a_library_that_others_may_change_is_not_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "native"
    folder.mkdir(mode=0o700)
    file = folder / "library.so"
    file.write_bytes(b"")
    file.with_suffix(".json").write_text("{}")
    library.check_trust(file)
    others = (file.with_suffix(".json"), 0o666), (file, 0o1666)
    for path, mode in ((file, 0o666), (folder, 0o777), (folder, 0o770), *others):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(ValueError, match=f"{path} is not trusted: others may write to it"):
            library.check_trust(file)
        path.chmod(before)
    folder.chmod(0o1777)  # nobody else can replace what is in it
    library.check_trust(file)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "link").symlink_to(folder)
    with pytest.raises(ValueError, match="open is not trusted"):
        library.check_trust(tmp_path / "open" / "link" / file.name)
