"""``tokenred viz`` on a real file, with the model that ships."""

import json
import os

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tokenred import attach, embedded, load_model, load_pipeline
from tokenred.cli import main
from tokenred.embedded import generate_sample
from tokenred.report.viz import views_of

PIPELINES = ("aot-paper", "visionzip", "pyramiddrop", "vanilla")  # visionzip is a plugin's
FILES = ("overlay.png", "anchor.png", "timeline.png", "animation.gif")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Write a generated video, enlarged and wider than high, as a file."""
    path = tmp_path_factory.mktemp("video") / "digits.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4, options={"qscale": "2"})
        frames = generate_sample(38).frames.repeat(2, axis=1).repeat(3, axis=2)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return str(path)


def viz(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["viz", *map(str, arguments)])
    streams = capsys.readouterr()
    return stop.value.code or 0, streams.out, streams.err


def test_pipelines_side_by_side(capsys, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = [part for name in PIPELINES for part in ("--pipeline", name)]
    code, out, err = viz(capsys, video, *wanted, "--frames", 2, "--retention", 0.25, "--json")
    assert code == 0, err
    report = json.loads(out)
    folder = tmp_path / "viz" / "digits-aot-paper-visionzip-pyramiddrop-vanilla"
    assert [str(tmp_path / each) for each in report["files"]] == [str(folder / n) for n in FILES]
    assert sorted(os.listdir(folder)) == sorted(FILES)
    assert report["frame_indices"] == [0, 7]
    aot, zipped, pyramid, vanilla = report["pipelines"]
    for each in report["pipelines"]:
        assert sum(each["tokens_per_frame"]) == each["n_tokens"]
        assert each["vanilla_tokens"] == 2 * 49
        for frame in range(2):
            assert sum(counts[frame] for counts in each["patches"].values()) == 169
        given = each["anchor"]["weight_per_frame"]
        assert len(given) == 2
        assert max(given) > 0
    assert aot["n_tokens"] == zipped["n_tokens"] == 2 * 13
    assert sum(aot["anchors_per_frame"]) > 0
    assert vanilla["n_tokens"] == 2 * 49  # keeps everything at any retention
    assert sum(vanilla["patches"]["kept"]) == 2 * 169
    assert sum(pyramid["lost_before_layer"].values()) > 0
    for name in FILES:
        with Image.open(folder / name) as image:
            assert image.width > 400
            assert getattr(image, "n_frames", 1) == (2 if name == "animation.gif" else 1)


def test_the_example_needs_no_file_and_the_text_names_the_files(capsys, tmp_path):
    code, out, err = viz(
        capsys, "--out", tmp_path / "new" / "deep", "--pipeline", "random", "--frames", 2
    )
    assert code == 0, err
    assert out.startswith("random: 10 of 98 tokens (10.2%)\n")
    assert out.splitlines()[2:] == [str(tmp_path / "new" / "deep" / name) for name in FILES]


def test_an_image_is_drawn_as_well(capsys, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(generate_sample(38).frames[3]).save(path)
    code, out, err = viz(capsys, path, "--out", tmp_path / "out")
    assert code == 0, err
    assert out.startswith("aot-paper")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["--pipeline", "visionzipp"], 2, "did you mean 'visionzip'?"),
        (["--anchor", "1,2"], 2, "expected FRAME,ROW,COLUMN such as 2,0,5, or strongest"),
        (["--anchor", "9,0,0", "--frames", "2"], 1, "there are 2 frames of 7x7 cells"),
        (["--retention", "1.5"], 2, "retention_ratio"),
        (["--set", "budget"], 2, "write --set PATH=VALUE"),
    ],
)
def test_faults_are_one_sentence_and_nothing_is_written(
    capsys, tmp_path, arguments, exit_code, sentence
):
    out = tmp_path / "out"
    code, printed, err = viz(capsys, *arguments, "--out", out)
    assert (code, printed) == (exit_code, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_a_broken_or_missing_video_is_one_sentence(capsys, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video" * 100)
    for path, sentence in ((broken, "cannot be decoded"), (tmp_path / "no.mp4", "does not exist")):
        code, _, err = viz(capsys, path, "--out", tmp_path / "out")
        assert code == 1
        assert sentence in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(capsys, tmp_path):
    (tmp_path / "file").write_text("here")
    code, _, err = viz(capsys, "--out", tmp_path / "file" / "out")
    assert code == 1
    assert f"{tmp_path / 'file'} is a file" in err


def test_nothing_half_written_is_left(capsys, tmp_path, monkeypatch):
    from pathlib import Path

    original, written = Path.write_bytes, []

    def full(self, data):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(self)
        return original(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = viz(capsys, "--out", tmp_path, "--pipeline", "random", "--frames", 2)
    assert code == 1
    assert "cannot be written: No space left on device" in err
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def loaded():
    from transformers.utils import logging

    logging.disable_progress_bar()
    return load_model(embedded.MODEL_DIR, device="cpu")


@pytest.mark.parametrize("name", ["fastv", "framefusion", "prunevid"])
def test_tokens_lost_inside_the_llm_are_those_that_it_counts(loaded, name):
    frames = torch.from_numpy(generate_sample(38).frames)
    inputs = loaded.inputs("how many digits", video=frames)
    pipeline = load_pipeline(name)
    (view,) = views_of(loaded.model, inputs, [pipeline], frames)
    with attach(loaded.model, load_pipeline(name)) as session, torch.no_grad():
        loaded.model(**inputs)
    (counted,) = session.layer_tokens
    assert view.n_layers == len(counted) == 4
    assert tuple(int((view.entered > layer).sum()) for layer in range(4)) == counted
    assert view.leaves_inside.any()
    assert len(view.entered) == view.reduced.realised.n_tokens


def test_views_of_one_video_share_one_encoding(loaded, monkeypatch):
    frames = torch.from_numpy(generate_sample(38).frames)
    inputs = loaded.inputs("how many digits", video=frames)
    calls = []
    original = loaded.adapter.encode
    monkeypatch.setattr(
        loaded.adapter, "encode", lambda *args: (calls.append(1), original(*args))[1]
    )
    pipelines = [load_pipeline(name) for name in ("aot-paper", "tome", "vanilla")]
    views = views_of(loaded.model, inputs, pipelines, frames, adapter=loaded.adapter)
    assert len(calls) == 1
    for view in views:
        reduced = view.reduced
        mapped = reduced.trace.shape
        assert mapped == (reduced.realised.n_tokens, 8 * 169)
    assert [view.name for view in views] == ["aot-paper", "tome", "vanilla"]


@pytest.mark.parametrize("name", ["caf\udce9.mp4", "x" * 240 + ".mp4"], ids=["latin-1", "long"])
def test_any_name_that_a_file_can_have_will_do(capsys, tmp_path, monkeypatch, name):
    from awkward import write_video

    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / name, range(4))
    code, out, err = viz(capsys, name, "--frames", 2, "--json")
    assert code == 0, err
    assert [os.path.exists(path) for path in json.loads(out)["files"]] == [True] * 4
