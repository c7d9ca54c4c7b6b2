"""``tokenred run`` on a real file, with the model that ships."""

import json

import av
import numpy as np
import pytest

from tokenred.cli import main
from tokenred.embedded import OPTIONS, generate_sample

QUESTION = "How many digits?"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Write a generated video, enlarged, as a file."""
    path = tmp_path_factory.mktemp("video") / "digits.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4, options={"qscale": "2"})
        frames = generate_sample(3).frames.repeat(2, axis=1).repeat(2, axis=2)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return str(path)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["run", *arguments])
    streams = capsys.readouterr()
    return stop.value.code or 0, streams.out, streams.err


def test_answers_come_with_token_counts(capsys, video):
    setting = ["--set", "budget.retention_ratio=0.25", "--pipeline", "aot-paper"]
    code, out, err = run(capsys, video, "--ask", QUESTION, *setting, "--json")
    report = json.loads(out)
    assert code == 0, err
    (answer,) = report["answers"]
    assert answer["question"] == "how many digits"
    assert answer["answer"] in OPTIONS["count"]
    assert 0 < answer["probability"] <= 1
    assert report["vanilla_tokens"] == 8 * 49
    assert report["n_tokens"] == 8 * 13  # ceil(49 cells * 0.25) a frame
    assert sum(report["tokens_per_frame"]) == report["n_tokens"]
    assert report["retention_ratio"] == pytest.approx(report["n_tokens"] / report["vanilla_tokens"])
    assert report["newline_tokens"] == 1
    saved = report["vanilla_tokens"] - report["n_tokens"]
    assert answer["unreduced_prompt_tokens"] - answer["prompt_tokens"] == saved
    assert report["frame_indices"] == list(range(8))
    assert report["reducer_ms"] == pytest.approx(sum(s["ms"] for s in report["stages"]))


def test_without_reduction_the_answer_is_the_unreduced_one(capsys, video):
    questions = ["--ask", QUESTION, "--ask", "Which color appears first?"]
    _, out, _ = run(capsys, video, *questions, "--pipeline", "vanilla", "--json")
    report = json.loads(out)
    assert report["n_tokens"] == report["vanilla_tokens"]
    for answer in report["answers"]:
        assert answer["answer"] == answer["unreduced_answer"]
    assert report["answers"][0]["answer"] == "4"  # what this video shows, and the model sees


def test_text_says_the_same(capsys, video):
    code, out, _ = run(capsys, video, "--ask", QUESTION)
    assert code == 0
    assert out.startswith("how many digits")
    assert "40 of 392 (10.2%), and 1 newline" in out


def test_more_frames_than_the_file_has_are_remarked_on_stderr(capsys, video):
    code, out, err = run(capsys, video, "--ask", QUESTION, "--frames", "10", "--json")
    assert code == 0
    assert len(json.loads(out)["frame_indices"]) == 10
    assert "holds 8 frames" in err


def test_unknown_words_say_what_can_be_asked(capsys, video):
    code, out, err = run(capsys, video, "--ask", "is there a dog?")
    assert (code, out) == (2, "")
    assert "ask: the embedded model does not know 'a', 'dog', 'there'" in err
    assert "how many digits" in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_without_a_model_is_one_sentence(capsys, video, tmp_path):
    code, _, err = run(capsys, video, "--ask", QUESTION, "--model", str(tmp_path))
    assert code == 1
    assert f"no model can be loaded from {tmp_path}" in err
    assert len(err.strip().splitlines()) == 1


def test_frames_may_be_spread_over_time_or_come_at_a_rate(capsys, tmp_path):
    from awkward import VIDEOS

    path = tmp_path / "variable.mp4"
    VIDEOS["variable.mp4"].make(path)
    asked = [str(path), "--ask", "how many digits?", "--no-compare", "--json"]
    found = {}
    for options in ((), ("--by", "time"), ("--fps", "0.1")):
        code, out, err = run(capsys, *asked, *options)
        assert code == 0, err
        found[options] = json.loads(out)["frame_indices"]
        assert ("do not come at a steady rate" in err) == (options == ())
    assert sum(index < 30 for index in found[()]) == 6
    assert sum(index < 30 for index in found["--by", "time"]) == 1
    assert found["--fps", "0.1"] == [0, 30, 32, 34, 36, 38, 40]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--frames", "4", "--fps", "1"), "give --frames or --fps, not both"),
        (("--by", "tim"), "did you mean 'time'?"),
    ],
)
def test_options_that_do_not_go_together(capsys, video, options, sentence):
    code, _, err = run(capsys, video, "--ask", "how many digits?", *options)
    assert code == 2
    assert sentence in err


@pytest.mark.parametrize("verb", ["run", "viz", "bench"])
def test_names_that_no_file_can_have_are_one_sentence(capsys, verb):
    name = "x" * 5000 + ".mp4"
    given = {"run": [name, "--ask", "how many digits?"], "viz": [name], "bench": ["--video", name]}
    with pytest.raises(SystemExit) as stop:
        main([verb, *given[verb]])
    assert stop.value.code == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("cannot be opened: file name too long")
