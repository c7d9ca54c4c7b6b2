"""The samples of most disagreement, chosen and counted by hand."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.report_cases import make_run, write_case
from tokenred.evaluation.manifest import STORE, Run
from tokenred.evaluation.store import Cost, Record, Store, StoredAnswer
from tokenred.evaluation.summary import summarise
from tokenred.evaluation.task import Question, Sample
from tokenred.report import gather
from tokenred.report.explorer import MAX_QUESTIONS, Explorer, explore, most_disputed, thumbnail

COST = Cost((0,), 4, 0, 0.5, 0, 0)


def record(sample: str, number: int, answer: str, score: float | None) -> Record:
    return Record(sample, number, StoredAnswer("colour", answer, score, {}), COST)


RECORDS = {
    "A": [record("x", 0, "red", 1.0), record("y", 0, "red", 0.0), record("z", 0, "blue", None)],
    "B": [record("x", 0, "red", 1.0), record("y", 0, "blue", 1.0), record("z", 0, "red", None)],
    "C": [record("x", 0, "red", 1.0), record("y", 0, "green", 0.0), record("z", 0, "green", None)],
}


def test_most_disputed_come_first_and_what_all_agree_on_never():
    # y: two of three wrong, 1 - (4 + 1) / 9; z has no label and three answers, 1 - 3 / 9
    assert most_disputed(RECORDS, 10) == ["z", "y"]
    assert most_disputed(RECORDS, 1) == ["z"]


def test_answers_are_grouped_with_the_rows_that_gave_them():
    found = explore(RECORDS, {}, 10, "no frames")
    assert found.labels == ("A", "B", "C")
    assert found.n_samples == 3
    assert found.note == "no frames"
    (question,) = found.samples[1].questions
    assert [(given.text, given.verdict, given.rows) for given in question.answers] == [
        ("blue", "right", (1,)),
        ("red", "wrong", (0,)),
        ("green", "wrong", (2,)),
    ]
    assert {given.verdict for given in found.samples[0].questions[0].answers} == {"unknown"}
    assert found.labelled
    assert not explore({"A": RECORDS["A"][2:], "B": RECORDS["B"][2:]}, {}, 10).labelled


def test_a_rebuilt_sample_brings_its_question_and_its_frames():
    frames = torch.zeros(20, 10, 12, 3, dtype=torch.uint8)
    asked = Question("colour", "which colour ?", ("red", "blue", "green"), ("blue",))
    sample = Sample("y", frames, tuple(range(0, 40, 2)), torch.arange(20.0), (asked,))
    (shown,) = explore(RECORDS, {"y": sample}, 10).samples[1:]
    assert shown.questions[0].prompt == "which colour ?"
    assert shown.questions[0].accepted == ("blue",)
    assert [frame.name for frame in shown.frames][:: len(shown.frames) - 1] == [
        "frame 0, 0.0 s", "frame 38, 19.0 s",
    ]  # fmt: skip
    assert len(shown.frames) == 8


def test_only_the_most_disputed_questions_stand_open():
    n_questions = MAX_QUESTIONS + 2
    rows = {
        name: [record("x", n, answer if n != 1 else "same", 0.0) for n in range(n_questions)]
        for name, answer in (("A", "red"), ("B", "blue"))
    }
    rows["B"] = [
        replace(r, answer=replace(r.answer, score=1.0 * (r.question_no != 1))) for r in rows["B"]
    ]
    (sample,) = explore(rows, {}, 1).samples
    assert [question.number for question in sample.questions] == [0, 2, 3]
    assert [question.number for question in sample.others] == [4, 1]


@pytest.mark.parametrize(
    ("height", "width", "kind", "size"),
    [(40, 60, "png", (60, 40)), (96, 50, "jpeg", (50, 96)), (480, 640, "jpeg", (128, 96))],
)
def test_thumbnails_are_small_pictures(height, width, kind, size):
    frame = torch.full((height, width, 3), 200, dtype=torch.uint8)
    head, data = thumbnail(frame).split(",", 1)
    assert head == f"data:image/{kind};base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == size
    assert all(abs(value - 200) < 3 for value in image.getpixel((0, 0)))


def gathered(folder: Path, run: Run, n_shown: int = 3) -> Explorer:
    with Store(write_case(folder, run) / STORE) as store:
        return gather.gather_explorer(run, summarise(run, store), store, n_shown)


def test_a_run_is_explored_with_frames_of_its_task(tmp_path: Path):
    found = gathered(tmp_path, make_run(n_samples=4))
    assert len(found.samples) == 3
    assert found.note == ""
    for sample in found.samples:
        assert len(sample.frames) == 8
        assert all(question.prompt for question in sample.questions)


def test_a_task_that_cannot_be_had_again_is_named(tmp_path: Path):
    run = make_run(n_samples=2)
    gone = gathered(tmp_path / "gone", replace(run, task={"name": "local", "path": "/nowhere"}))
    assert "Questions and frames are missing: " in gone.note
    assert "/nowhere" in gone.note
    assert not any(sample.frames for sample in gone.samples)
    changed = replace(run, task_fingerprint="older")
    rows = tuple(
        replace(row, origin=replace(row.origin, task_fingerprint="older")) for row in run.rows
    )
    found = gathered(tmp_path / "changed", replace(changed, rows=rows))
    assert "the task has changed since the run" in found.note
    assert found.samples


def test_a_large_table_shows_the_best_rows_and_the_controls(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(gather, "MAX_ROWS", 5)
    found = gathered(tmp_path, make_run(labels=[f"row {n}" for n in range(9)], n_samples=2))
    assert len(found.labels) == 5
    assert {"row 0", "vanilla", "random", "downsample"} <= set(found.labels)
    assert "Of 12 rows, 5 are shown" in found.note


def test_the_commands_make_the_figures_again(tmp_path: Path):
    run = replace(make_run(retentions=(0.25, 0.1), n_samples=2), model={"name": "some/model"})
    provenance = gather.gather_provenance(run, tmp_path / "my run", 2)
    assert provenance.commands == (
        f"tokenred ablate made-up --limit 2 --out '{tmp_path}/my run' --retention 0.25,0.1 "
        "--model some/model",
        f"tokenred report '{tmp_path}/my run'",
    )
    assert provenance.versions["code"] == run.rows[0].origin.code_version
    assert provenance.versions["python"] == "3.11"
