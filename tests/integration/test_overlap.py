"""``tokenred overlap`` on the model that ships, from the command line to the files."""

import json

import pytest

from tokenred.cli import main


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["overlap", *arguments])
    streams = capsys.readouterr()
    return stop.value.code or 0, streams.out, streams.err


def test_generated_videos_of_the_embedded_model(capsys, tmp_path):
    pipelines = ["--pipelines", "top-attention,no-merge,fastvid-pooler"]
    options = ["--limit", "2", "--retention", "0.25,0.10", "--json", "--out", str(tmp_path)]
    code, out, err = run(capsys, *pipelines, *options)
    assert code == 0, err
    data = json.loads(out)
    assert data == json.loads((tmp_path / "overlap.json").read_text())
    assert len(data["clips"]) == 2
    assert data["llm_grid"] == [7, 7]
    labels = [(row["label"], row["retention"]) for row in data["rows"]]
    assert ("vanilla", None) in labels
    assert [r for label, r in labels if label == "top-attention"] == [0.25, 0.10]
    assert {len(row["measures"]) for row in data["rows"]} == {11}
    for row in data["rows"]:
        if row["retention"] is not None:
            assert row["n_tokens"] == 8 * {0.25: 13, 0.10: 5}[row["retention"]]
    assert "left out: fastvid-pooler at 10 %: cue 'pooler' needs" in err
    assert f"wrote {tmp_path / 'overlap-pairs.csv'}" in err


def test_a_video_file_and_a_table(capsys, tmp_path):
    av = pytest.importorskip("av")
    import numpy as np

    from tokenred.embedded import generate_sample

    path = tmp_path / "digits.mp4"
    with av.open(str(path), "w") as container:
        frames = generate_sample(3).frames.repeat(2, axis=1).repeat(2, axis=2)
        stream = container.add_stream("mpeg4", rate=4, options={"qscale": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    code, out, err = run(capsys, str(path), "--pipelines", "top-attention", "--frames", "4")
    assert code == 0, err
    assert "1 clips (digits), up to 4 frames of 13x13 pooled to 7x7 tokens" in out
    assert "top-attention" in out
    assert "chance" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pipelines", "top-atention"], "did you mean 'top-attention'"),
        (["--pipelines", ","], "at least one pipeline"),
        (["--retention", "2"], "ratios in (0, 1]"),
        (["--tower", "dinov2", "--model", "there"], "a model or a tower"),
        (["--tower", "there", "--pool", "max"], "expected none, bilinear or average"),
    ],
)
def test_usage_errors_are_one_sentence(capsys, arguments, sentence):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
