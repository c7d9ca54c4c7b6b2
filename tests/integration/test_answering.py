"""Encode a video once, reduce it, and ask several questions about it."""

import copy

import pytest
import torch

from tests.attach_cases import (
    CASES,
    CELLS,
    N_FRAMES,
    forced,
    greedy,
    logits_of,
    make_inputs,
)
from tokenred.errors import InputError
from tokenred.models import adapter_for, attach, reduce_clip
from tokenred.models.inside.llm import inside_llm
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import (
    FAMILIES,
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
    reduced = reduce_clip(clip, pipeline, newline=adapter.newline())
    prompts = [each["input_ids"][0] for each in singles]
    found = adapter.answer_logits(clip, reduced, prompts)
    assert found.shape == (5, len(tokenizer))
    assert found.dtype == torch.float32
    assert not found.requires_grad
    with attach(model, pipeline) as session:
        for row, single in zip(found, singles, strict=True):
            assert (logits_of(model, single)[0, -1] - row).abs().max() < 1e-5
            assert int(row.argmax()) == int(greedy(model, single)[0, single["input_ids"].shape[1]])
    assert session.realised[0].newline_tokens == reduced.realised.newline_tokens
    # The release of AOT puts none behind a video.
    assert reduced.realised.newline_tokens == (preset != "aot-released")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<video>", "must not end with the video"),
        ("no film", "hold 0 video placeholders"),
        ("<video> <video> two", "hold 74 video placeholders"),
    ],
)
def test_answer_logits_refuses_prompts_without_their_video(loaded, model, text, sentence):
    adapter = adapter_for(model)
    inputs = make_inputs(loaded, text)
    (clip,) = adapter.encode(make_inputs(loaded, "<video>"))
    reduced = reduce_clip(clip, load_pipeline("vanilla"), newline=adapter.newline())
    with pytest.raises(InputError, match=sentence):
        adapter.answer_logits(clip, reduced, [inputs["input_ids"][0]])


def test_frame_times_travel_with_the_tokens(loaded, model):
    inputs = make_inputs(loaded, *CASES["two-videos"])
    times = [torch.tensor([0.0, 0.5, 1.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])]
    found = adapter_for(model).encode(inputs, frame_times=times)
    assert [each.tokens.frame_times.tolist() for each in found] == [each.tolist() for each in times]
    assert found[0].tokens.native_pool == "bilinear"
    assert adapter_for(model).video_layout(N_FRAMES).vanilla_tokens == N_FRAMES * CELLS


# --- continuations --------------------------------------------------------------------------------

HALF = {"budget.retention_ratio": 0.5}
ASKED = ("<video> what moves?", "Look: <video> and why?", "<video> when?")
TEXTS = (("a", "red", "it runs"), ("b", "c"), ("because", "red", "no"))
"""Options of one token, one byte each, and of several; the second question has no long one."""

CONTINUED = [
    ("LLaVA-OneVision", "vanilla", {}),  # one reading of the video
    ("LLaVA-OneVision", "aot-paper", HALF),
    ("LLaVA-OneVision", "fastv", {}),  # every prompt whole
    ("LLaVA-OneVision", "dycoke-cache", {}),
    ("Qwen2.5-VL", "vanilla", {}),  # positions of its own: every prompt whole
    ("Qwen2.5-VL", "aot-paper", HALF),
    ("Qwen2.5-VL", "fastv", {}),
    ("Qwen3-VL", "aot-paper", HALF),  # with features for several layers
    ("Qwen3-VL", "fastv", {}),
]


@pytest.fixture(scope="module")
def families():
    built = {}

    def family(name):
        if name not in built:
            model, tokenizer = FAMILIES[name].build()
            built[name] = model.double(), tokenizer
        return built[name]

    return family


@pytest.mark.parametrize(("name", "preset", "changes"), CONTINUED)
def test_continuations_are_as_likely_as_when_written_one_by_one(families, name, preset, changes):
    """What works inside the LLM sees the prompt alone, whatever comes after it."""
    model, tokenizer = families(name)
    family, pipeline = FAMILIES[name], load_pipeline(preset, changes)
    video = synthetic_video(N_FRAMES, family.frame_size[0], seed=3)
    singles = [family.inputs(model, tokenizer, [text], videos=[video]) for text in ASKED]
    prompts = [each["input_ids"][0] for each in singles]
    texts = [
        [torch.tensor(tokenizer(text, add_special_tokens=False).input_ids) for text in each]
        for each in TEXTS
    ]
    assert {len(text) for each in texts for text in each} >= {1, 3, 7}
    adapter = adapter_for(model)
    (clip,) = adapter.encode(singles[0], pipeline.needs)
    reduced = reduce_clip(clip, pipeline, newline=adapter.newline())
    with inside_llm(adapter.text_model, pipeline.inside_llm) as run:
        work = run if pipeline.inside_llm else None
        alone = adapter.prompt_scores(clip, reduced, prompts, inside=work)
        counts = list(run.layer_tokens)
        found = adapter.prompt_scores(clip, reduced, prompts, inside=work, continuations=texts)
        assert list(run.layer_tokens) == counts
    assert [len(each) for each in found.continuations] == [3, 2, 3]
    assert alone.continuations == ((), (), ())
    assert (found.logits - alone.logits).abs().max() < 1e-4
    assert (found.hidden - alone.hidden).abs().max() < 1e-4
    head = model.get_output_embeddings()
    with torch.no_grad():
        assert (head(found.hidden.double()) - found.logits).abs().max() < 1e-4
    with attach(model, pipeline) as session, torch.no_grad():
        for row, single in enumerate(singles):
            output = model(**single, output_hidden_states=True)
            assert (output.hidden_states[-1][0, -1] - found.hidden[row]).abs().max() < 1e-4
            assert (output.logits[0, -1] - found.logits[row]).abs().max() < 1e-4
            if pipeline.inside_llm:
                assert session.layer_tokens == [counts[row]]
            for text, likely in zip(texts[row], found.continuations[row], strict=True):
                assert likely == pytest.approx(forced(model, single, text), abs=1e-4)
                if len(text) == 1:
                    next_token = found.logits[row].log_softmax(-1)[int(text)]
                    assert likely == pytest.approx(float(next_token), abs=1e-6)


def test_answer_logits_are_those_of_the_prompt_scores(families):
    model, tokenizer = families("Qwen3-VL")
    family, pipeline = FAMILIES["Qwen3-VL"], load_pipeline("vanilla")
    video = synthetic_video(N_FRAMES, family.frame_size[0])
    single = family.inputs(model, tokenizer, ["<video> why?"], videos=[video])
    adapter = adapter_for(model)
    (clip,) = adapter.encode(single, pipeline.needs)
    reduced = reduce_clip(clip, pipeline, newline=adapter.newline())
    scores = adapter.prompt_scores(clip, reduced, [single["input_ids"][0]])
    logits = adapter.answer_logits(clip, reduced, [single["input_ids"][0]])
    assert torch.equal(logits, scores.logits)
    assert logits.dtype == scores.hidden.dtype == torch.float32
    assert scores.hidden.shape == (1, model.config.text_config.hidden_size)
