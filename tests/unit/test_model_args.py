"""``--model_args`` of lmms-eval, what tasks show, and what doctor says; no lmms-eval needed."""

import importlib.metadata
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tokenred import load_pipeline
from tokenred.cli import doctor
from tokenred.errors import ConfigError, InputError
from tokenred.integrations.asking import SAMPLING, _generation, _until
from tokenred.integrations.model_args import ModelArgs, read_model_args
from tokenred.integrations.visuals import read_visuals
from tokenred.video import sample_indices

LEAST = {"pretrained": "embedded", "pipeline": "aot-paper"}
HASH = load_pipeline("aot-paper").config.config_id


def read(**more):
    return read_model_args({**LEAST, **more})


def test_the_least_that_is_needed():
    args = read()
    assert isinstance(args, ModelArgs)
    assert args.pipeline.config_id == HASH
    assert (args.frames, args.frame_sampling, args.positions) == (None, "round", None)


def test_overrides_and_other_names():
    args = read(
        retention_ratio=0.2,
        set='"{seed: 3, name: other}"',
        max_frames_num=16,
        batch_size="1",
        max_batch_size=None,
        frame_sampling="floor",
    )
    changes = {
        "seed": 3,
        "name": "other",
        "budget.retention_ratio": 0.2,
    }
    assert args.pipeline == load_pipeline("aot-paper", changes).config
    assert (args.frames, args.frame_sampling) == (16, "floor")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"pipeline": None}, "pipeline: lmms-eval must be told"),
        ({"frams": 8}, "frams: no such argument; did you mean 'frames'"),
        ({"frames": 8, "max_frames_num": 16}, "mean the same"),
        ({"frames": 0}, "frames: must be 1 or more"),
        ({"frames": 2.5}, "frames: expected a whole number, got 2.5"),
        ({"batch_size": 4}, "batch_size: tokenred asks one question at a time"),
        ({"frame_sampling": "flor"}, "did you mean 'floor'"),
        ({"image_list": "movie"}, "image_list: unknown value 'movie'"),
        ({"positions": "kept"}, "positions: unknown value 'kept'"),
        ({"frames": "²"}, "frames: expected a whole number, got '²'"),
        ({"frames": 10**30}, "frames: expected a whole number"),
        ({"set": "{seed: 1, seed: 2}"}, "set: write set=.*: the key 'seed' stands twice"),
        ({"set": "seed: 3: 4"}, "set: write set="),
        ({"set": "{sed: 3}"}, "sed"),
        ({"prompts_of": "llava_vid"}, "prompts_of: lmms-eval picks prompts"),
    ],
)
def test_what_is_wrong_is_named(more, message):
    with pytest.raises(ConfigError, match=message):
        read(**more)


# The hash


def test_a_hash_must_be_that_of_the_pipeline():
    assert read(config_hash=HASH).pipeline.config_id == HASH
    with pytest.raises(ConfigError, match=f"abc is not the pipeline's: 'aot-paper' .* has {HASH}"):
        read(config_hash="abc")
    with pytest.raises(ConfigError, match=f"{HASH} is not"):
        read(config_hash=HASH, retention_ratio=0.3)


def test_a_file_needs_its_hash(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: aot-paper\n")
    with pytest.raises(ConfigError, match=f"add config_hash={HASH}"):
        read(pipeline=str(path))
    assert read(pipeline=str(path), config_hash=HASH).pipeline.config_id == HASH
    path.write_text("extends: aot-paper\nset: {seed: 5}\n")
    with pytest.raises(ConfigError, match=f"{HASH} is not the pipeline's"):
        read(pipeline=str(path), config_hash=HASH)


def test_a_preset_of_a_plugin_needs_its_hash(monkeypatch):
    from tokenred.plugins import registry
    from tokenred.registry import Registry

    theirs = {**registry().presets(), "aot-paper": (None, "tokenred-someone")}
    monkeypatch.setattr(Registry, "presets", lambda self: theirs)
    monkeypatch.setattr(
        "tokenred.integrations.model_args.load_pipeline", lambda *_: load_pipeline("vanilla")
    )
    with pytest.raises(ConfigError, match="add config_hash="):
        read()


@pytest.mark.parametrize(
    ("config_id", "arrives"), [("000000012345", 12345), ("123456789012", 123456789012)]
)
def test_a_hash_that_lmms_eval_takes_for_a_number(monkeypatch, config_id, arrives):
    from tokenred.pipeline import PipelineConfig

    monkeypatch.setattr(PipelineConfig, "config_id", config_id)
    assert read(config_hash=arrives)
    with pytest.raises(ConfigError, match=f'reads it as a number, write "{config_id}"'):
        read(config_hash=float(arrives))
    with pytest.raises(ConfigError, match="is not the pipeline's"):
        read(config_hash=arrives + 1)


# What tasks show


def picture(value, size=(6, 4)):
    return Image.fromarray(np.full((*size, 3), value, np.uint8))


def test_images_and_the_frames_of_a_video():
    images = [picture(value) for value in range(5)]
    seen = read_visuals([images], read(), 3)
    assert (seen.kind, len(seen.pixels)) == ("image", 5)
    assert torch.equal(seen.pixels[2], torch.full((1, 6, 4, 3), 2, dtype=torch.uint8))
    movie = read_visuals(images, read(image_list="video"), 3)
    assert (movie.kind, movie.frame_indices, movie.frame_times) == ("video", ((0, 2, 4),), None)
    assert movie.pixels[0][:, 0, 0, 0].tolist() == [0, 2, 4]
    assert read_visuals(None, read(), 3).pixels == ()


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ([picture(0), "clip.mp4"], "images and videos at once"),
        ([{"array": [0.0]}], "shows a dict"),
        (["gone.mp4"], "gone.mp4 does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused(shown, message):
    with pytest.raises(InputError, match=message):
        read_visuals(shown, read(), 3)


def test_images_of_different_size_are_no_video():
    with pytest.raises(InputError, match="different size"):
        read_visuals([picture(0), picture(0, (8, 8))], read(image_list="video"), 2)


def test_samplings():
    assert sample_indices(100, 8) == (0, 14, 28, 42, 57, 71, 85, 99)
    assert sample_indices(100, 8, "floor") == (0, 14, 28, 42, 56, 70, 84, 99)
    assert sample_indices(100, 8, "start") == (0, 12, 25, 37, 50, 62, 75, 87)


# Generation


class Tokenizer:
    pad_token_id = 7


@pytest.mark.parametrize(
    ("options", "sampled"),
    [
        ({}, False),
        ({"temperature": 0, "top_p": 1.0}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": 0.7, "do_sample": False}, False),
        ({"temperature": 0, "do_sample": True}, False),
        ({"do_sample": True}, True),
    ],
)
def test_greedy_unless_a_task_asks_for_sampling(options, sampled):
    chosen = _generation(options, 12, Tokenizer)
    assert (chosen["do_sample"], chosen["max_new_tokens"]) == (sampled, 12)
    if not sampled:
        assert {chosen[name] for name in ("temperature", "top_p", "top_k")} == {None}
    assert set(chosen) <= {*SAMPLING, "do_sample", "max_new_tokens", "pad_token_id"}


def test_the_length_that_a_task_asks_for_goes_first():
    assert _generation({"max_new_tokens": 3}, 12, Tokenizer)["max_new_tokens"] == 3
    assert _generation({"max_gen_toks": 4}, 12, Tokenizer)["max_new_tokens"] == 4


def test_text_ends_at_the_first_stop():
    assert _until("one two\n\nthree", ["\n\n", "two"]) == "one "
    assert _until("one two", "two") == "one "
    assert _until("one two", None) == "one two"
    assert _until("one two", ["", "x"]) == "one two"


# Doctor


def findings(monkeypatch, installed):
    def version(name):
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    return {each.name: (each.state, each.detail) for each in doctor.lmms_findings()}


def test_doctor_without_lmms_eval(monkeypatch):
    found = findings(monkeypatch, None)
    assert found == {"lmms-eval": ("missing", "pip install 'tokenred[lmms]'")}


def test_doctor_says_what_does_not_go_together(monkeypatch):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    found = findings(monkeypatch, "0.9.1")
    assert found["lmms-eval"] == ("ok", "0.9.1; tested are 0.7.3 to below 0.8")
    state, detail = found["torchvision"]
    assert (state, "one index" in detail, "nms does not exist" in detail) == ("failed", True, True)
    assert found["lmms-eval model"][0] == "failed"


def test_doctor_without_the_entry_point(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: _Names())
    monkeypatch.setitem(sys.modules, "torchvision", type(sys)("torchvision"))
    sys.modules["torchvision"].__version__ = "0.28.0"
    found = findings(monkeypatch, "0.7.3")
    assert found["torchvision"] == ("ok", "0.28.0")
    assert found["lmms-eval model"][0] == "failed"
    assert "reinstall tokenred" in found["lmms-eval model"][1]


class _Names:
    names = frozenset()
