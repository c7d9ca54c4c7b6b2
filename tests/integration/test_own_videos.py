"""Videos and questions of one's own, from files to a table: with labels, written, and without."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenred import StrategyConfig, hookimpl
from tokenred.cli import main
from tokenred.embedded import generate_sample
from tokenred.evaluation.task import Question, Sample, Task, load_task, score_option
from tokenred.evaluation.tasks.embedded import EmbeddedTask
from tokenred.plugins import register_plugin, registry

av = pytest.importorskip("av")
N_VIDEOS = 3


def write_video(path: Path, frames: Any) -> None:
    """Write frames (frames, height, width, 3) without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=4, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated videos as files, with their questions: labelled, and without labels."""
    folder = tmp_path_factory.mktemp("own")
    lines = []
    for n in range(N_VIDEOS):
        video = generate_sample(EmbeddedTask.FIRST + n, split="test")
        write_video(folder / f"{n}.mp4", video.frames)
        lines += [
            {
                "video": f"{n}.mp4",
                "question": each.prompt,
                "options": list(each.options),
                "answer": each.answer,
                "kind": each.kind,
            }
            for each in video.questions
        ]
    (folder / "labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    unlabelled = [{k: v for k, v in line.items() if k != "answer"} for line in lines]
    (folder / "unlabelled.jsonl").write_text("\n".join(map(json.dumps, unlabelled)))
    for name, settings in {
        "likely.yaml": {"path": "labelled.jsonl"},
        "written.yaml": {"path": "labelled.jsonl", "answering": "generation", "max_new_tokens": 1},
        "loyal.yaml": {"path": "unlabelled.jsonl"},
    }.items():
        # JSON is YAML
        common = {"name": "local", "frames": 8, "show_options": "none"}
        (folder / name).write_text(json.dumps(common | settings))
    return folder


def ablate(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["ablate", *map(str, arguments)])
    return int(stop.value.code or 0)


def table(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "table.json").read_text())
    return found


def answers(out: Path) -> list[tuple[Any, ...]]:
    """Return what was answered, in an order that does not depend on the task."""
    database = sqlite3.connect(out / "results.sqlite")
    try:
        return database.execute(
            "SELECT config_id, sample_id, question_no, kind, answer, score, agrees FROM results "
            "ORDER BY 1, 2, 3"
        ).fetchall()
    finally:
        database.close()


@pytest.mark.slow
def test_files_are_answered_like_the_videos_they_were_made_of(folder: Path, tmp_path: Path) -> None:
    for name, task in (("files", folder / "likely.yaml"), ("made", "embedded")):
        arguments = ["aot-paper", "--task", task, "--limit", N_VIDEOS, "--out", tmp_path / name]
        assert ablate(*arguments) == 0
    found = table(tmp_path / "files")
    (chance,) = (row["config_id"] for row in found["rows"] if row["label"] == "random")
    files, made = (
        [(row[0], *row[2:]) for row in answers(tmp_path / name) if row[0] != chance]
        for name in ("files", "made")  # random choices differ by the name of the video
    )
    assert files == made
    assert (found["task"], found["measure"], found["n_samples"]) == ("labelled", "accuracy", 3)
    (vanilla,) = (row for row in found["rows"] if row["label"] == "vanilla")
    assert vanilla["score"]["value"] > 0.7  # the model can do it
    assert (vanilla["agreement"]["value"], vanilla["measured"]["kl_nats"]) == (1, 0)


@pytest.mark.slow
def test_answers_may_be_written_and_labels_may_be_missing(folder: Path, tmp_path: Path) -> None:
    for name in ("likely", "written", "loyal"):
        arguments = ["vanilla", "--task", folder / f"{name}.yaml", "--out", tmp_path / name]
        assert ablate(*arguments) == 0
    likely, written, loyal = (answers(tmp_path / name) for name in ("likely", "written", "loyal"))
    assert [row[:5] for row in likely] == [row[:5] for row in loyal]
    same = [a[4] == b[4] for a, b in zip(likely, written, strict=True)]
    assert sum(same) > 0.9 * len(same)  # the likeliest word is an option, as a rule
    assert {row[5] for row in loyal} == {None}
    found = table(tmp_path / "loyal")
    assert found["measure"] == "agreement"
    rows = {row["label"]: row for row in found["rows"]}
    assert rows["vanilla"]["score"]["value"] == 1
    share = [row[6] for row in loyal if row[0] == rows["random"]["config_id"]]
    assert rows["random"]["score"]["value"] == pytest.approx(sum(share) / len(share))
    page = (tmp_path / "loyal" / "table.md").read_text(encoding="utf-8")
    assert "agreement %" in page
    assert "No question has a label" in page


def test_a_corrupt_or_missing_video_ends_the_run_or_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / "data" / name).write_bytes((folder / name).read_bytes())
    broken = tmp_path / "data" / "1.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    lines = (folder / "labelled.jsonl").read_text().splitlines()
    (tmp_path / "data" / "labelled.jsonl").write_text("\n".join(lines))
    task = tmp_path / "data" / "task.yaml"
    task.write_text((folder / "likely.yaml").read_text())
    arguments = ["vanilla", "--task", task, "--out", tmp_path / "run"]
    assert ablate(*arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"tokenred: sample '1.mp4': {broken}")
    assert ablate(*arguments, "--keep-going") == 0
    said = capsys.readouterr()
    assert "6 failed, they are tried again next time: sample '" in said.err
    assert "2 videos are left out of all rows" in said.out.replace("\n", " ")
    found = table(tmp_path / "run")
    assert (found["n_samples"], len(found["failures"])) == (1, 6)
    assert {failure[1] for failure in found["failures"]} == {"1.mp4", "2.mp4"}


class TheirConfig(StrategyConfig):
    """One setting."""

    digit: int = 3


class TheirTask(Task):
    """One black video, asked about one digit."""

    name = "theirs"
    kinds = {"digit": 0.5}
    n_samples = 1
    calibration: tuple[int, ...] = ()
    answering = "likelihood"
    max_new_tokens = 1

    config: TheirConfig

    @property
    def fingerprint(self) -> str:
        return f"theirs-{self.config.digit}"

    def sample_id(self, index: int) -> str:
        return "black"

    def sample(self, index: int) -> Sample:
        question = Question(
            "digit", f"what color is {self.config.digit}", ("red", "blue"), ("red",)
        )
        frames = torch.zeros(8, 104, 104, 3, dtype=torch.uint8)
        return Sample("black", frames, tuple(range(8)), torch.arange(8.0), (question,))

    def score(self, question: Question, said: str) -> float | None:
        return score_option(question, said)


class TheirPlugin:
    @hookimpl
    def register_strategies(self, register: Any) -> None:
        register("theirs", TheirTask)


def test_a_task_of_a_plugin_is_a_task_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry(), "_entries", dict(registry()._entries))
    register_plugin(registry(), TheirPlugin(), "pytest")
    (tmp_path / "task.yaml").write_text("{name: theirs, digit: 7}")
    assert load_task("theirs").fingerprint == "theirs-3"
    assert load_task(str(tmp_path / "task.yaml")).fingerprint == "theirs-7"
    out = tmp_path / "run"
    assert ablate("vanilla", "--task", tmp_path / "task.yaml", "--out", out) == 0
    found = table(out)
    assert (found["task"], found["task_fingerprint"]) == ("theirs", "theirs-7")
    assert f" pytest={pytest.__version__}" in found["code_version"]
    assert json.loads((out / "run.json").read_text())["task"] == {"name": "theirs", "digit": 7}
    capsys.readouterr()
