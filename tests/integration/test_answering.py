"""Encode a video once, reduce it, and ask several questions about it."""

import copy

import pytest
import torch

from tests.attach_cases import CASES, CELLS, N_FRAMES, greedy, logits_of, make_inputs
from tokenred.errors import InputError
from tokenred.models import adapter_for, attach, reduce_clip
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import (
    llava_onevision_inputs,
    synthetic_video,
    tiny_llava_onevision,
)

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def loaded():
    return tiny_llava_onevision()


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


@pytest.mark.parametrize("preset", ["vanilla", "aot-paper", "aot-released"])
def test_answer_logits_equal_one_call_a_prompt(loaded, preset):
    model, tokenizer = copy.deepcopy(loaded[0]).double(), loaded[1]
    video = synthetic_video(N_FRAMES, seed=3)
    texts = [
        "Q <video> a?",
        "<video>?",
        "Q <video> what colour is it?",
        "<video> why?",
        "Q <video>?",
    ]
    singles = [llava_onevision_inputs(model, tokenizer, [text], [video]) for text in texts]
    adapter, pipeline = adapter_for(model), load_pipeline(preset)
    (clip,) = adapter.encode(singles[0], pipeline.needs)
    reduced = reduce_clip(adapter, clip, pipeline)
    prompts = [each["input_ids"][0] for each in singles]
    found = adapter.answer_logits(reduced, prompts, layout=clip.layout)
    assert found.shape == (5, len(tokenizer))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    with attach(model, pipeline) as session:
        for row, single in zip(found, singles, strict=True):
            assert (logits_of(model, single)[0, -1] - row).abs().max() < 1e-5
            assert int(row.argmax()) == int(greedy(model, single)[0, single["input_ids"].shape[1]])
    assert session.realised[0].newline_tokens == reduced.realised.newline_tokens == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<video>", "must go on after the video"),
        ("no film", "hold 0 video placeholders"),
        ("<video> <video> two", "hold 74 video placeholders"),
    ],
)
def test_answer_logits_refuses_prompts_without_their_video(loaded, model, text, sentence):
    adapter = adapter_for(model)
    inputs = make_inputs(loaded, text)
    (clip,) = adapter.encode(make_inputs(loaded, "<video>"))
    reduced = reduce_clip(adapter, clip, load_pipeline("vanilla"))
    with pytest.raises(InputError, match=sentence):
        adapter.answer_logits(reduced, [inputs["input_ids"][0]], layout=clip.layout)


def test_frame_times_travel_with_the_tokens(loaded, model):
    inputs = make_inputs(loaded, *CASES["two-videos"])
    times = [torch.tensor([0.0, 0.5, 1.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])]
    found = adapter_for(model).encode(inputs, frame_times=times)
    assert [each.tokens.frame_times.tolist() for each in found] == [each.tolist() for each in times]
    assert found[0].tokens.native_pool == "bilinear"
    assert adapter_for(model).video_layout(N_FRAMES).vanilla_tokens == N_FRAMES * CELLS
