"""``tokenred bench`` end to end: the model that ships, and every family. No speed is asserted."""

import json
from functools import partial

import av
import pytest
import saved_models
import torch
from PIL import Image

import tokenred
from tokenred import embedded
from tokenred.cli import main
from tokenred.evaluation.bench import environment, peak_memory
from tokenred.models import ModelSession
from tokenred.models.timing import Stopwatch
from tokenred.testing.models import FAMILIES, synthetic_video

QUICK = ("--repeats", "2", "--warmup", "0", "--new-tokens", "3")


@pytest.fixture(autouse=True)
def quick_and_offline(monkeypatch):
    saved_models.block_network(monkeypatch)
    monkeypatch.setattr(peak_memory, "CALLS", 1)
    monkeypatch.setattr(environment, "MATMUL_SIZES", {"cpu": 16})


@pytest.fixture(scope="module")
def model():
    return tokenred.load_model(embedded.MODEL_DIR, device="cpu")


@pytest.fixture(scope="module")
def sample():
    return embedded.generate_sample(3)


def asker(model, sample, new_tokens=3, clock=None):
    frames = torch.from_numpy(sample.frames.copy())
    inputs = model.inputs(sample.questions[0].prompt, video=frames)
    watch = Stopwatch.of(torch.device("cpu"), *([] if clock is None else [clock]))
    return partial(model.session.time, inputs, new_tokens=new_tokens, stopwatch=watch)


def bench(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *QUICK, *arguments])
    streams = capsys.readouterr()
    return stop.value.code or 0, streams.out, streams.err


def report(capsys, *arguments):
    code, out, err = bench(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


class Ticking:
    """A clock that goes on by one second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_parts_are_timed_where_they_begin_and_end(model, sample):
    """Read at: start, encoder twice, reducer twice, then once for each of three new tokens."""
    found = asker(model, sample, clock=Ticking())(tokenred.load_pipeline("random"))
    assert (found.encoder_ms, found.reducer_ms, found.ttft_ms) == (1000, 1000, 5000)
    assert found.prefill_ms == 3000
    assert (found.new_tokens, found.decode_ms) == (3, 2000)
    assert found.decode_tokens_per_s == 1
    alone = asker(model, sample, clock=Ticking())(None)
    assert (alone.ttft_ms, alone.encoder_ms, alone.prefill_ms) == (1000, None, None)


def test_stages_lie_within_the_reducer(model, sample):
    found = asker(model, sample)(tokenred.load_pipeline("aot-paper"))
    assert list(found.stage_ms) == ["intra_frame", "pool", "inter_frame"]
    assert 0 < sum(found.stage_ms.values()) <= found.reducer_ms
    assert found.encoder_ms + found.reducer_ms < found.ttft_ms


def test_what_the_model_read_is_counted(model, sample):
    ask = asker(model, sample)
    whole, alone = ask(tokenred.load_pipeline("vanilla")), ask(None)
    short = ask(tokenred.load_pipeline("random"))
    assert whole.prompt_tokens == alone.prompt_tokens
    assert whole.prompt_tokens - short.prompt_tokens == 392 - 40
    inside = ask(tokenred.load_pipeline("fastv"))
    assert inside.layer_tokens[0] == 392 > inside.layer_tokens[-1]


def test_the_model_is_as_it_was(model, sample):
    ask = asker(model, sample)
    ask(tokenred.load_pipeline("fastv"))
    assert not {"generate", "forward"} & set(vars(model.model))
    assert ask(None).encoder_ms is None


def test_json_holds_everything(capsys, tmp_path):
    path = tmp_path / "bench.json"
    data = report(capsys, "random", "pyramiddrop", "--out", str(path))
    assert data == json.loads(path.read_text())
    rows = {row["label"]: row for row in data["pipelines"]}
    assert list(rows) == ["unattached", "vanilla", "random", "pyramiddrop"]
    assert (data["rounds"], data["warmup"], data["new_tokens"]) == (2, 0, 3)
    assert data["environment"]["threads"] == 1
    for row in rows.values():
        assert set(row["ttft_ms"]) == {"median", "min", "p25", "p75", "max"}
        assert row["ttft_ms"]["min"] > 0
        assert row["decode_tokens_per_s"]["median"] > 0
    assert rows["random"]["n_tokens"] == 40
    assert rows["random"]["schedule"] == "4x40"
    assert rows["vanilla"]["flops_share"] == 1
    assert not rows["vanilla"]["fewer_flops_not_faster"]
    assert rows["vanilla"]["ttft_share"]["median"] == 1
    with pytest.raises(SystemExit):  # its FLOPs are those of the verb
        main(["flops", "--schedule", rows["pyramiddrop"]["schedule"], "--json"])
    prefill = json.loads(capsys.readouterr().out)["prefill"]
    found = rows["pyramiddrop"]
    assert (found["prefill_flops"], found["flops_share"]) == (prefill["flops"], prefill["share"])
    assert found["flops_share"] < 1


def test_tables_fit(capsys, monkeypatch):
    monkeypatch.setattr("tokenred.cli.bench.PIPE_WIDTH", 100)
    code, out, err = bench(capsys, "aot-paper", "fastv")
    assert (code, err) == (0, "")
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100
    assert "…" not in out
    for words in ("encoder", "tokens/s", "extra MB", "inter_frame", "392 to 196"):
        assert words in out


def test_what_cannot_run_is_said_and_the_others_are_shown(capsys, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: top-attention\nset: {stages.frame.selector.layer: 40}\n")
    code, out, err = bench(capsys, "random", str(mine), "--json")
    data = json.loads(out)
    assert code == 2
    assert [row["label"] for row in data["pipelines"]] == ["unattached", "vanilla", "random"]
    assert "40" in data["failures"]["mine"]
    assert len(err.strip().splitlines()) == 1
    assert "mine was not measured" in err


def test_ctrl_c_leaves_whole_rounds(capsys, monkeypatch):
    asked, original = [], ModelSession.time

    def interrupted(self, inputs, pipeline, **how):
        asked.append(pipeline)
        if len(asked) == 5:  # in the second round of three rows
            raise KeyboardInterrupt
        return original(self, inputs, pipeline, **how)

    monkeypatch.setattr(ModelSession, "time", interrupted)
    code, out, err = bench(capsys, "random", "--json")
    data = json.loads(out)
    assert (code, data["rounds"]) == (130, 1)
    assert "stopped after 1 of 2 rounds" in err
    assert {row["memory"] for row in data["pipelines"]} == {None}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["aot-papre"], 2, "did you mean 'aot-paper'"),
        (["--video", "nowhere.mp4"], 1, "nowhere.mp4 does not exist"),
        (["--formula", "mine"], 2, "unknown FLOPs formula 'mine'"),
        (["--retention", "2"], 2, "(0, 1]"),
        (["--out", "nowhere/bench.json"], 1, "no folder nowhere"),
        (["--model", "nowhere/model", "--offline"], 1, "nowhere/model"),
    ],
)
def test_faults_are_one_sentence(capsys, arguments, code, words):
    found, out, err = bench(capsys, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_a_file_that_is_no_video_is_one_sentence(capsys, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video")
    code, out, err = bench(capsys, "--video", str(path))
    assert (code, out) == (1, "")
    assert "broken.mp4" in err


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_measured(capsys, tmp_path, name):
    family = FAMILIES[name]
    folder = tmp_path / "model"
    saved_models.save(name, folder)
    if "video" in family.media:
        path = tmp_path / "square.mp4"
        write_video(path, synthetic_video(6, 32))
        shown = ["--video", str(path), "--frames", "4"]
    else:
        path = tmp_path / "square.png"
        Image.fromarray(synthetic_video(1, 32)[0].permute(1, 2, 0).numpy()).save(path)
        shown = ["--video", str(path)]
    data = report(capsys, "random", "fastv", "--model", str(folder), *shown, "--repeats", "1")
    rows = {row["label"]: row for row in data["pipelines"]}
    assert set(rows) == {"unattached", "vanilla", "random", "fastv"}
    assert rows["unattached"]["prompt_tokens"] == rows["vanilla"]["prompt_tokens"]
    assert rows["random"]["n_tokens"] < rows["vanilla"]["n_tokens"]
    experts = "MoE" in name
    assert (rows["random"]["prefill_flops"] is None) == experts
    assert any("No FLOPs" in remark for remark in data["remarks"]) == experts


def test_a_real_model_without_a_file_sees_the_generated_video(capsys, tmp_path):
    for name, kind in (("Qwen2-VL", "video"), ("LLaVA-NeXT", "image")):
        saved_models.save(name, tmp_path / name)
        data = report(capsys, "random", "--model", str(tmp_path / name), "--frames", "4")
        assert data["media_kind"] == kind
        assert data["pipelines"][-1]["n_tokens"] > 0


def write_video(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4, options={"qscale": "2"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[2:], "yuv420p"
        for frame in frames.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
