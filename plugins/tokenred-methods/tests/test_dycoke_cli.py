"""The floor of DyCoke, as a user of the command line meets it."""

import json

import pytest

from tokenred.cli import main
from tokenred.embedded import generate_sample

av = pytest.importorskip("av")
QUESTION = "How many digits?"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("dycoke") / "digits.mp4"
    frames = generate_sample(3).frames.repeat(2, axis=1).repeat(2, axis=2).copy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4, options={"qscale": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


def run(capsys, video, ratio, pipeline="dycoke"):
    setting = ["--pipeline", pipeline, "--set", f"budget.retention_ratio={ratio}"]
    with pytest.raises(SystemExit) as stop:
        main(["run", video, "--ask", QUESTION, *setting, "--json"])
    streams = capsys.readouterr()
    return stop.value.code or 0, streams.out, streams.err


@pytest.mark.parametrize("pipeline", ["dycoke", "dycoke-ttm"])
def test_less_than_a_frame_of_four_is_an_error_that_names_the_floor(capsys, video, pipeline):
    code, out, err = run(capsys, video, 0.2, pipeline)
    assert (code, out) == (3, "")
    assert "at least 98 tokens are possible here; nearest retention_ratio 0.2653" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("pipeline", ["dycoke", "dycoke-ttm"])
def test_a_quarter_is_answered(capsys, video, pipeline):
    code, out, err = run(capsys, video, 0.25, pipeline)
    assert code == 0, err
    report = json.loads(out)
    assert report["n_tokens"] == 8 * 13
    assert report["answers"][0]["answer"]
