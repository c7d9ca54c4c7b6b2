"""Videos and questions of one's own: every form of a line, and a sentence for every mistake."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenred.cli import main
from tokenred.errors import ConfigError, InputError, TokenredError
from tokenred.evaluation.files import N_PIECES, PIECE_BYTES, sampled_hash
from tokenred.evaluation.task import Question, Task, load_task
from tokenred.evaluation.tasks.embedded import EmbeddedTask
from tokenred.evaluation.tasks.local import LocalTask, LocalTaskConfig


def write_video(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    """Write six frames of one colour that grows darker."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for n in range(6):
            frame = np.full((32, 48, 3), colour, np.uint8) - np.uint8(4 * n)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number, name in enumerate(("a.mp4", "b.mp4", "sub/c.mp4")):
        write_video(folder / name, (200 - 40 * number, 60, 30))
    return folder


def write(folder: Path, *lines: dict[str, Any] | str, name: str = "questions.jsonl") -> Path:
    path = folder / name
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def local(path: Path, **settings: Any) -> LocalTask:
    task = load_task({"name": "local", "path": str(path), "frames": 4, **settings})
    assert isinstance(task, LocalTask)
    assert isinstance(task, Task)
    return task


def first(task: LocalTask) -> Question:
    return task.sample(0).questions[0]


CHOICE = {"video": "a.mp4", "question": "which ?", "options": ["red", "green", "blue"]}


class TestLines:
    @pytest.mark.parametrize(
        ("answer", "letter"), [("green", "B"), (1, "B"), (["green"], "B"), ("red", "A"), (2, "C")]
    )
    def test_options_are_shown_with_letters_and_answered_by_them(
        self, videos: Path, tmp_path: Path, answer: Any, letter: str
    ) -> None:
        task = local(write(tmp_path, {**CHOICE, "answer": answer}), videos=str(videos))
        question = first(task)
        assert question.prompt == "which ?\nA. red\nB. green\nC. blue\nAnswer with the letter."
        assert (question.options, question.answers) == (("A", "B", "C"), (letter,))
        assert [task.score(question, said) for said in ("A", "B", "C", "elsewhere")] == [
            float(letter == each) for each in ("A", "B", "C", "elsewhere")
        ]
        assert task.kinds == {"all": pytest.approx(1 / 3)}

    def test_options_may_stay_out_of_the_prompt(self, videos: Path, tmp_path: Path) -> None:
        path = write(tmp_path, {**CHOICE, "answer": ["red", "blue"], "kind": "colour"})
        task = local(path, videos=str(videos), show_options="none")
        question = first(task)
        assert question == Question("colour", "which ?", ("red", "green", "blue"), ("red", "blue"))
        assert [task.score(question, said) for said in question.options] == [1, 0, 1]

    @pytest.mark.parametrize(
        ("scorer", "scores"),
        [
            ("exact-match", [1, 0, 0]),
            ("contains", [1, 1, 0]),
            ("token-f1", [1, pytest.approx(2 / 3), 0]),
            ({"name": "contains"}, [1, 1, 0]),
        ],
    )
    def test_free_text_is_scored_by_a_scorer(
        self, videos: Path, tmp_path: Path, scorer: Any, scores: list[float]
    ) -> None:
        line = {"video": "a.mp4", "question": "what ?", "answer": ["red", "scarlet"]}
        task = local(write(tmp_path, line), videos=str(videos), scorer=scorer)
        question = first(task)
        assert question == Question("all", "what ?", (), ("red", "scarlet"))
        said = ("Red.", "a red car", "blue")
        assert [task.score(question, each) for each in said] == scores
        assert task.kinds == {"all": 0}

    def test_a_line_without_an_answer_is_not_scored(self, videos: Path, tmp_path: Path) -> None:
        free = {"video": "a.mp4", "question": "what ?"}
        task = local(write(tmp_path, CHOICE, free), videos=str(videos))
        choice, text = task.sample(0).questions
        assert (choice.answers, text.answers) == ((), ())
        assert task.score(choice, "A") is None
        assert task.score(text, "anything") is None

    def test_lines_about_one_video_are_one_sample(self, videos: Path, tmp_path: Path) -> None:
        lines = [
            {"video": "a.mp4", "question": "one ?"},
            {"video": "b.mp4", "question": "two ?", "kind": "other"},
            "",
            {"video": "a.mp4", "question": "three ?"},
        ]
        task = local(write(tmp_path, *lines), videos=str(videos))
        assert [task.sample_id(n) for n in range(task.n_samples)] == ["a.mp4", "b.mp4"]
        assert [q.prompt for q in task.sample(0).questions] == ["one ?", "three ?"]
        assert dict(task.kinds) == {"all": 0, "other": 0}

    def test_chance_is_a_mean_over_questions(self, videos: Path, tmp_path: Path) -> None:
        two = {**CHOICE, "options": ["red", "green"]}
        free = {"video": "a.mp4", "question": "what ?"}
        task = local(write(tmp_path, CHOICE, two, free), videos=str(videos))
        assert task.kinds == {"all": pytest.approx((1 / 3 + 1 / 2 + 0) / 3)}

    def test_frames_may_be_spread_over_time_or_come_at_a_rate(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from awkward import VIDEOS, read_numbers

        VIDEOS["variable.mkv"].make(tmp_path / "variable.mkv")
        path = write(tmp_path, {"video": "variable.mkv", "question": "what ?"})
        found = {}
        for name, settings in {
            "index": {"frames": 4},
            "time": {"frames": 4, "by": "time"},
            "floor": {"frames": 4, "sampling": "floor"},
            "fps": {"fps": 0.1},
        }.items():
            task = load_task({"name": "local", "path": str(path), **settings})
            sample = task.sample(0)
            assert read_numbers(sample.frames) == list(sample.frame_indices)
            found[name] = (sample.frame_indices, task.fingerprint)
        assert [indices for indices, _ in found.values()] == [
            (0, 14, 27, 41),
            (0, 33, 37, 41),
            (0, 13, 27, 41),
            (0, 30, 32, 34, 36, 38, 40),
        ]
        assert len({fingerprint for _, fingerprint in found.values()}) == 4
        said = [record.getMessage() for record in caplog.records]
        assert sum("frames do not come at a steady rate" in each for each in said) == 2

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"frames": 4, "fps": 2}, "give frames or fps, not both"),
            ({"by": "mood"}, "'index' or 'time'"),
            ({"limits": {"max_seconds": 3}}, "max_seconds"),
        ],
    )
    def test_sampling_that_cannot_be(
        self, videos: Path, settings: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(ConfigError, match=sentence):
            load_task({"name": "local", "path": str(videos), **settings})

    def test_a_name_that_is_no_text_is_refused_before_anything_runs(self, tmp_path: Path) -> None:
        write_video(tmp_path / "clips" / "a.mp4").rename(tmp_path / "clips" / "caf\udce9.mp4")
        with pytest.raises(InputError, match=r"caf\\udce9\.mp4 is a name that is no UTF-8 text"):
            load_task({"name": "local", "path": str(tmp_path / "clips")})

    def test_limits_are_settings(self, videos: Path, tmp_path: Path) -> None:
        path = write(tmp_path, CHOICE)
        task = local(path, videos=str(videos), limits={"max_frames": 3})
        with pytest.raises(InputError, match=r"the limit is 3 \(max_frames\)"):
            task.sample(0)

    def test_frames_are_those_of_the_file(self, videos: Path, tmp_path: Path) -> None:
        task = local(write(videos, CHOICE, name="beside.jsonl"))  # videos lie beside it
        sample = task.sample(0)
        assert sample.frames.shape == (4, 32, 48, 3)
        assert sample.frame_indices == (0, 2, 3, 5)
        assert sample.frame_times.tolist() == pytest.approx([0, 0.5, 0.75, 1.25])
        assert sample.id == "a.mp4"

    def test_a_byte_order_mark_and_odd_line_ends_inside_texts_do_no_harm(
        self, videos: Path, tmp_path: Path
    ) -> None:
        text = json.dumps({"video": "a.mp4", "question": "one\u2028two ?"}, ensure_ascii=False)
        path = tmp_path / "questions.jsonl"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
        assert first(local(path, videos=str(videos))).prompt == "one\u2028two ?"

    def test_a_task_travels_to_other_processes(self, videos: Path, tmp_path: Path) -> None:
        task = local(write(tmp_path, {**CHOICE, "answer": 0}), videos=str(videos))
        again = pickle.loads(pickle.dumps(task))
        built = load_task(task.config.model_dump(mode="json"))
        assert first(again) == first(built) == first(task)
        assert again.fingerprint == built.fingerprint == task.fingerprint


class TestVideosAlone:
    def test_one_video_has_one_question_without_label(self, videos: Path) -> None:
        task = load_task(str(videos / "b.mp4"))
        assert (task.name, task.n_samples, task.sample_id(0)) == ("b", 1, "b.mp4")
        (question,) = task.sample(0).questions
        assert question == Question("all", "What happens in this video?")

    def test_a_folder_is_all_of_its_videos(self, videos: Path, tmp_path: Path) -> None:
        for name in ("b.mp4", "a.mp4"):
            shutil.copy(videos / name, tmp_path / name)
        (tmp_path / "notes.txt").write_text("no video")
        task = local(tmp_path, question="What moves?")
        assert [task.sample_id(n) for n in range(task.n_samples)] == ["a.mp4", "b.mp4"]
        assert first(task).prompt == "What moves?"

    def test_the_last_ones_may_be_set_apart(self, videos: Path, tmp_path: Path) -> None:
        lines = [{"video": v, "question": "what ?"} for v in ("a.mp4", "b.mp4", "sub/c.mp4")]
        task = local(write(tmp_path, *lines), videos=str(videos), calibration=2)
        assert (task.n_samples, list(task.calibration)) == (1, [1, 2])
        assert [task.sample(i).id for i in task.calibration] == ["b.mp4", "sub/c.mp4"]
        with pytest.raises(ConfigError, match="calibration: there are 3 videos; some must be left"):
            local(write(tmp_path, *lines), videos=str(videos), calibration=3)


class TestFingerprint:
    @pytest.fixture
    def folder(self, videos: Path, tmp_path: Path) -> Path:
        folder = tmp_path / "one"
        shutil.copytree(videos, folder)
        write(folder, {**CHOICE, "answer": 0}, {"video": "b.mp4", "question": "what ?"})
        return folder

    def test_it_does_not_know_where_the_folder_is(self, folder: Path, tmp_path: Path) -> None:
        before = local(folder / "questions.jsonl").fingerprint
        moved = Path(shutil.copytree(folder, tmp_path / "another name"))
        assert local(moved / "questions.jsonl").fingerprint == before
        path = tmp_path / "elsewhere.jsonl"
        shutil.copy(folder / "questions.jsonl", path)
        assert local(path, videos=str(moved)).fingerprint == before

    @pytest.mark.parametrize(
        "settings",
        [
            {"frames": 5},
            {"sampling": "start"},
            {"by": "time"},
            {"limits": {"max_damage": 0.1}},
            {"answering": "generation"},
            {"show_options": "none"},
            {"scorer": "contains"},
            {"max_new_tokens": 5},
            {"calibration": 1},
        ],
        ids=str,
    )
    def test_it_changes_with_every_setting(self, folder: Path, settings: dict[str, Any]) -> None:
        path = folder / "questions.jsonl"
        assert local(path, **settings).fingerprint != local(path).fingerprint

    def test_it_changes_with_a_question_a_label_and_a_video(self, folder: Path) -> None:
        path = folder / "questions.jsonl"
        found = {local(path).fingerprint}
        text = path.read_text()
        for old, new in (("what", "why"), ('"answer": 0', '"answer": 1'), ("b.mp4", "sub/c.mp4")):
            path.write_text(text.replace(old, new))
            assert text != path.read_text()
            found.add(local(path).fingerprint)
        path.write_text(text)
        data = bytearray((folder / "a.mp4").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "a.mp4").write_bytes(data)
        found.add(local(path).fingerprint)
        (folder / "a.mp4").unlink()
        found.add(local(path).fingerprint)
        assert len(found) == 6


def test_a_large_file_is_told_apart_by_any_of_its_pieces(tmp_path: Path) -> None:
    path = tmp_path / "large"
    data = bytearray(2 * N_PIECES * PIECE_BYTES)  # every second piece counts
    path.write_bytes(data)
    found = {sampled_hash(path)}
    middle = (N_PIECES // 2) * (len(data) - PIECE_BYTES) // (N_PIECES - 1)
    for place in (0, middle, len(data) - 1):
        data[place] = 1
        path.write_bytes(data)
        found.add(sampled_hash(path))
        data[place] = 0
    assert len(found) == 4


BAD_LINES = [
    ("{", "not valid JSON: Expecting property name"),
    ("[1]", "not a JSON object"),
    ({"video": "a.mp4"}, "question: this key is required"),
    ({"video": "a.mp4", "question": ""}, "question: String should have at least 1 character"),
    ({**CHOICE, "anwser": "red"}, "anwser: unknown key 'anwser'; did you mean 'answer'?"),
    ({**CHOICE, "answer": "yellow"}, "the answer ['yellow'] is not among the options"),
    ({**CHOICE, "answer": 3}, "there is no option 3 of 3"),
    ({**CHOICE, "answer": -1}, "there is no option -1 of 3"),
    ({**CHOICE, "answer": True}, "answer: "),
    ({**CHOICE, "options": ["red"]}, "options must be several and different, got ['red']"),
    ({**CHOICE, "options": ["red", "red"]}, "options must be several and different"),
    (
        {**CHOICE, "options": [f"option {n}" for n in range(27)]},
        "27 options; there are letters for 26",
    ),
    (
        {"video": "a.mp4", "question": "how many ?", "answer": 3},
        "answer 3 is an option's number; there are no options",
    ),
]


def command(*arguments: object) -> int:
    """Run ``tokenred ablate vanilla`` and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(["ablate", "vanilla", *map(str, arguments)])
    return int(stop.value.code or 0)


class TestMistakes:
    @pytest.mark.parametrize(("line", "sentence"), BAD_LINES, ids=lambda value: str(value)[:40])
    def test_a_faulty_line_is_named_by_its_number(
        self,
        tmp_path: Path,
        line: Any,
        sentence: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = write(tmp_path, CHOICE, "", line)
        assert command("--task", path, "--out", tmp_path / "run") == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"tokenred: {path}, line 3: {sentence}")
        assert len(said.err.splitlines()) == 1
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("name", "content", "code", "sentence"),
        [
            ("absent.jsonl", None, 2, "--task: no task or file '{path}'; tasks: embedded, local"),
            ("empty.jsonl", b"\n \n", 1, "{path} holds no question"),
            ("binary.jsonl", b"\xff\xfe\x00", 1, "{path} cannot be read: it is not UTF-8 text"),
            ("absent.yaml", None, 2, "--task: {path} does not exist"),
            ("task.yaml", b"name: [", 2, "{path}, line 1: not valid YAML: "),
            ("task.yaml", b"- 1", 2, "{path} does not hold a mapping"),
            ("task.yaml", b"name: locl", 2, "name: unknown task 'locl'; did you mean 'local'?"),
            ("task.yaml", b"name: local", 2, "path: this key is required"),
            (
                "task.yaml",
                b"{name: local, path: x.jsonl, frame: 3}",
                2,
                "frame: unknown key 'frame'; did you mean 'frames'?",
            ),
            ("task.yaml", b"{name: local, path: x.jsonl}", 1, "{folder}/x.jsonl does not exist"),
            ("task.yaml", b"{name: local, path: v.mp4}", 1, "{folder}/v.mp4 does not exist"),
            (
                "task.yaml",
                b"{name: local, path: x.jsonl, scorer: bleu}",
                2,
                "unknown scorer 'bleu'; valid: contains, exact-match, token-f1",
            ),
            ("task.yaml", b"{name: embedded, sede: 1}", 2, "sede: unknown key 'sede'; did you"),
        ],
    )
    def test_a_faulty_file_is_one_sentence(
        self,
        tmp_path: Path,
        name: str,
        content: bytes | None,
        code: int,
        sentence: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        assert command("--task", path, "--out", tmp_path / "run") == code
        said = capsys.readouterr()
        assert sentence.format(path=path, folder=tmp_path) in said.err
        assert len(said.err.splitlines()) == 1
        assert not (tmp_path / "run").exists()

    def test_a_folder_without_videos_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds no video \(\.mp4, "):
            load_task(str(tmp_path))

    def test_a_video_that_is_missing_or_corrupt_is_said_when_its_turn_comes(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "b.mp4").write_bytes(b"no video at all")
        other = {**CHOICE, "video": "b.mp4"}
        task = local(write(tmp_path, CHOICE, other))
        with pytest.raises(InputError, match=r"a\.mp4 does not exist"):
            task.sample(0)
        with pytest.raises(InputError, match=r"b\.mp4"):
            task.sample(1)


class TestYaml:
    def test_paths_are_relative_to_the_file(
        self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(videos, tmp_path / "data" / "clips")
        write(tmp_path / "data", {**CHOICE, "answer": 0})
        path = tmp_path / "data" / "task.yaml"
        path.write_text(
            "{name: local, path: questions.jsonl, videos: clips, frames: 2, answering: generation}"
        )
        monkeypatch.chdir(tmp_path)
        for source in ("data/task.yaml", str(path)):
            task = load_task(source)
            assert (task.answering, len(task.sample(0).frames)) == ("generation", 2)

    def test_other_tasks_have_settings_too(self, tmp_path: Path) -> None:
        path = tmp_path / "task.yml"
        path.write_text("{name: embedded, seed: 7}")
        task = load_task(str(path))
        assert isinstance(task, EmbeddedTask)
        assert task.config.seed == 7

    def test_a_name_stands_for_itself_and_a_config_too(self) -> None:
        assert isinstance(load_task("embedded"), EmbeddedTask)
        config = EmbeddedTask().config
        assert load_task(config).fingerprint == EmbeddedTask().fingerprint
        with pytest.raises(TokenredError, match="path"):
            load_task("local")
        assert LocalTaskConfig.model_fields["answering"].default == "likelihood"
