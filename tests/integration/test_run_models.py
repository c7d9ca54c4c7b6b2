"""``tokenred run --model``: every family from a folder, without network."""

import json
import os
import subprocess
import sys

import av
import pytest
import saved_models
import torch
from PIL import Image

import tokenred
from tokenred.cli import main
from tokenred.models.loading import model as loading
from tokenred.testing.models import FAMILIES, synthetic_video

FAMILY = "LLaVA-OneVision"
QUESTION = "what moves?"
VIDEO_FAMILIES = [name for name, family in FAMILIES.items() if "video" in family.media]
COUNTS = ("n_tokens", "vanilla_tokens", "newline_tokens", "tokens_per_frame")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    saved_models.block_network(monkeypatch)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}

    def folder(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp("model")
            saved_models.save(name, found[name])
        return str(found[name])

    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "square.mp4"
    frames = synthetic_video(6, 32).permute(0, 2, 3, 1).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4, options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "square.png"
    Image.fromarray(synthetic_video(1, 32)[0].permute(1, 2, 0).numpy()).save(path)
    return str(path)


def run(capsys, *arguments, question=QUESTION):
    with pytest.raises(SystemExit) as stop:
        main(["run", *arguments, "--ask", question])
    streams = capsys.readouterr()
    return stop.value.code or 0, streams.out, streams.err


def report(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def directly(folder, picture, pipeline, n_frames=4, **options):
    """Do in Python what the command line is asked to do; return the answer and the session."""
    loaded = tokenred.load_model(folder, device="cpu")
    clip = tokenred.read_video(picture, n_frames)
    inputs = loaded.inputs(QUESTION, video=clip.frames, frame_times=clip.frame_times)
    with tokenred.attach(loaded.model, pipeline, **options) as session:
        output = loaded.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    made = output[0, inputs["input_ids"].shape[1] :]
    return loaded.tokenizer.decode(made, skip_special_tokens=True).strip(), session


@pytest.mark.parametrize("name", VIDEO_FAMILIES)
def test_every_family_answers_about_a_video(capsys, folders, video, name):
    short = ["--frames", "4", "--max-new-tokens", "4", "--pipeline", "random"]
    found = report(capsys, video, "--model", folders(name), *short)
    text, session = directly(folders(name), video, "random")
    (real,) = session.realised
    (answer,) = found["answers"]
    assert answer["question"] == QUESTION
    assert answer["answer"] == text
    assert {key: found[key] for key in COUNTS} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in ((key, getattr(real, key)) for key in COUNTS)
    }
    saved = session.clips[0].layout.n_placeholders - real.n_tokens - real.newline_tokens
    assert saved > 0
    assert answer["unreduced_prompt_tokens"] - answer["prompt_tokens"] == saved
    assert 1 <= answer["new_tokens"] <= 4
    assert 0 < answer["probability"] <= 1
    assert answer["layer_tokens"] == []
    assert min(answer["ms"], answer["unreduced_ms"]) > 0
    assert found["model"]["name"] == folders(name)
    assert found["model"]["dtype"] == "float32"
    assert found["model"]["device"] == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert len(found["frame_indices"]) == 4


@pytest.mark.parametrize("name", VIDEO_FAMILIES)
def test_without_reduction_the_answer_is_the_unreduced_one(capsys, folders, video, name):
    short = ["--frames", "4", "--max-new-tokens", "4", "--pipeline", "vanilla"]
    (answer,) = report(capsys, video, "--model", folders(name), *short)["answers"]
    unreduced = {key: value for key, value in answer.items() if key.startswith("unreduced_")}
    assert len(unreduced) == 5
    del unreduced["unreduced_ms"]
    for key, value in unreduced.items():
        if key != "unreduced_probability":
            assert answer[key.removeprefix("unreduced_")] == value
    assert answer["probability"] == pytest.approx(answer["unreduced_probability"], rel=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_answers_about_an_image(capsys, folders, image, name):
    short = ["--max-new-tokens", "2", "--pipeline", "random", "--no-compare"]
    found = report(capsys, image, "--model", folders(name), *short)
    assert (found["medium"], found["frame_indices"]) == ("image", [])
    assert 0 < found["n_tokens"] < found["vanilla_tokens"]
    (answer,) = found["answers"]
    assert answer["unreduced_answer"] is answer["unreduced_ms"] is None


def test_a_pipeline_inside_the_llm_says_what_every_layer_read(capsys, folders, video):
    short = [
        "--frames",
        "4",
        "--max-new-tokens",
        "2",
        "--set",
        "stages.prune.reducer.schedule={1: 0.5}",
    ]
    arguments = [video, "--model", folders(FAMILY), "--pipeline", "fastv", *short]
    found = report(capsys, *arguments)
    n = found["vanilla_tokens"]
    assert found["answers"][0]["layer_tokens"] == [n, n // 2, n // 2]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert f"per layer  {n} {n // 2} {n // 2}" in out


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_positions_are_handed_on(capsys, folders, video, positions):
    short = ["--frames", "4", "--max-new-tokens", "4", "--pipeline", "random", "--no-compare"]
    found = report(capsys, video, "--model", folders(FAMILY), *short, "--positions", positions)
    text, _ = directly(folders(FAMILY), video, "random", positions=positions)
    assert found["positions"] == positions
    assert found["answers"][0]["answer"] == text


def test_the_memory_is_said_before_the_load(capsys, folders, video, monkeypatch):
    arguments = [video, "--model", folders(FAMILY), "--frames", "2", "--max-new-tokens", "1"]
    code, _, err = run(capsys, *arguments, "--dtype", "bfloat16", "--device", "cpu")
    assert code == 0
    assert "0.19 M parameters, 377.3 kB in bfloat16 on cpu; " in err
    assert len(err.splitlines()) == 1
    monkeypatch.setattr(loading, "free_memory", lambda device: 1000)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (1, "")
    assert "needs 754.6 kB in float32, but 1.0 kB are free" in err.splitlines()[1]
    code, _, _ = run(capsys, *arguments, "--force")
    assert code == 0


def test_text_shows_both_answers_and_the_facts(capsys, folders, video):
    short = ["--frames", "4", "--max-new-tokens", "3", "--pipeline", "random"]
    code, out, _ = run(capsys, video, "--model", folders(FAMILY), *short)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == QUESTION
    assert lines[1].startswith("  random     ")
    assert lines[2].startswith("  unreduced  ")
    assert "LlavaOnevisionForConditionalGeneration, float32 on" in out
    assert "tokens, unreduced" in out


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--device", "toaster"], 2, "is not a device"),
        (["--dtype", "float23"], 2, "did you mean 'float32'?"),
        (["--positions", "middle"], 2, "unknown positions 'middle'"),
        (["--revision", "main"], 1, "a local folder has no revisions"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, folders, video, options, code, sentence):
    found, out, err = run(capsys, video, "--model", folders(FAMILY), *options)
    assert (found, out) == (code, "")
    assert sentence in err.splitlines()[-1]


def test_pictures_that_cannot_be_read(capsys, folders, tmp_path):
    for name, sentence in (("none.mp4", "does not exist"), ("broken.png", "read as an image")):
        path = tmp_path / name
        if name == "broken.png":
            path.write_bytes(b"no image")
        code, _, err = run(capsys, str(path), "--model", folders(FAMILY))
        assert code == 1
        assert sentence in err.splitlines()[-1]


def test_an_image_is_turned_as_its_camera_says(folders, tmp_path):
    from tokenred.cli._media import read_media

    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    Image.new("L", (4, 2)).save(path, exif=exif)
    (pixels,) = read_media(path, 1).pixels
    assert pixels.shape == (1, 4, 2, 3)


def test_the_embedded_format_in_a_folder_keeps_its_words(capsys, video, tmp_path):
    from tokenred.embedded import load_embedded_model, load_tokenizer

    load_embedded_model().save_pretrained(tmp_path)
    load_tokenizer().save_pretrained(tmp_path)
    code, _, err = run(capsys, video, "--model", str(tmp_path), question="is there a dog?")
    assert code == 2
    assert "ask: the embedded model does not know 'a', 'dog', 'there'" in err
    code, out, _ = run(capsys, video, "--model", str(tmp_path), question="How many digits?")
    assert code == 0
    assert out.startswith("how many digits\n")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in VIDEO_FAMILIES])
def test_a_family_without_videos_says_so(capsys, folders, video, name):
    code, _, err = run(capsys, video, "--model", folders(name))
    assert code == 1
    assert "reads images, not videos" in err.splitlines()[-1]


def test_a_downloaded_model_runs_by_its_id_without_network(video, tmp_path):
    """In a process of its own: what the hub's client reads from the environment is read once."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--someone--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    folder = cached / "snapshots" / revision
    folder.mkdir(parents=True)
    saved_models.save(FAMILY, folder)
    code = (
        "import sys, pytest, saved_models; from tokenred.cli import main; "
        "saved_models.block_network(pytest.MonkeyPatch()); main(sys.argv[1:])"
    )
    tests = os.path.dirname(saved_models.__file__)
    python_path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    arguments = [video, "--ask", QUESTION, "--model", "someone/model", "--offline", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *arguments, "--frames", "2", "--max-new-tokens", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": python_path},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"]["name"] == "someone/model"
    assert found["model"]["revision"] == revision
