"""What ``attach`` leaves behind - nothing - and what it refuses."""

import copy
import gc
import weakref

import pytest
import torch

from tests.attach_cases import CASES, KEPT, QUARTER, greedy, logits_of, make_inputs, unwanted
from tokenred.errors import CapabilityError, ConfigError, InputError
from tokenred.models import adapter_for, attach
from tokenred.models.attach import _resolve
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import tiny_llava_onevision

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def loaded():
    return tiny_llava_onevision()


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


# --- what is left behind ----------------------------------------------------------------------


def state(model):
    """Everything that attach could leave behind on a model."""
    modules = dict(model.named_modules())
    return {
        "attributes": {name: set(vars(module)) for name, module in modules.items()},
        "hooks": {
            name: [len(each) for key, each in vars(module).items() if key.endswith("_hooks")]
            for name, module in modules.items()
        },
        "attention": [
            config._attn_implementation
            for config in (model.config, model.config.text_config, model.config.vision_config)
        ],
        "methods": (model.forward, model.generate),
        "generation": model.generation_config.to_dict(),
    }


def test_nothing_is_left_behind(loaded, model):
    inputs = make_inputs(loaded, *CASES["padded"])
    expected = logits_of(model, inputs)
    pipeline = load_pipeline("aot-paper", QUARTER)
    pipeline_before = pipeline.config
    before = state(model)
    with attach(model, pipeline):
        assert model.forward != before["methods"][0]
        greedy(model, inputs)
    assert state(model) == before
    assert pipeline.config == pipeline_before
    assert torch.equal(logits_of(model, inputs), expected)


class Boom:
    """A pipeline that fails at work."""

    needs = frozenset({"attention@0"})

    def run(self, tokens, *, generator=None, trace=False):
        raise RuntimeError("boom")


@pytest.mark.parametrize("run", [greedy, logits_of])
def test_nothing_is_left_behind_by_an_exception(loaded, model, run):
    inputs = make_inputs(loaded, *CASES["single"])
    logits_of(model, inputs)
    before = state(model)
    with pytest.raises(RuntimeError, match="boom"), attach(model, Boom()):
        run(model, inputs)
    assert state(model) == before
    with attach(model, "vanilla"):
        pass


def test_an_exception_inside_the_model_leaves_nothing(loaded, model, monkeypatch):
    inputs = make_inputs(loaded, *CASES["single"])
    logits_of(model, inputs)
    before = state(model)

    def fail(*args):
        raise RuntimeError("out of memory")

    hook = model.model.vision_tower.encoder.layers[2].register_forward_hook(fail)
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        attach(model, load_pipeline("aot-paper", QUARTER)),
    ):
        greedy(model, inputs)
    hook.remove()
    assert state(model) == before


def test_an_exception_lets_go_of_a_half_full_cache(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    cache = transformers.DynamicCache(config=model.config.text_config)
    held = weakref.ref(cache)

    def fail(*args):
        raise ZeroDivisionError

    hook = model.model.language_model.layers[-1].register_forward_pre_hook(fail)
    with attach(model, "fastv"):
        try:
            greedy(model, inputs, past_key_values=cache)
        except ZeroDivisionError:
            del cache
        hook.remove()
        gc.collect()
        assert held() is None


def test_a_method_that_was_replaced_before_comes_back(loaded):
    model = tiny_llava_onevision()[0]
    original, calls = model.forward, []

    def forward(*args, **kwargs):  # as accelerate does for models on several devices
        calls.append(kwargs)
        return original(*args, **kwargs)

    model.forward = forward
    with attach(model, load_pipeline("random", QUARTER)):
        logits_of(model, make_inputs(loaded, *CASES["single"]))
    assert model.forward is forward
    assert "inputs_embeds" in calls[0]
    assert "generate" not in vars(model)


def test_two_models_may_be_attached_at_once(loaded, model):
    other = tiny_llava_onevision(seed=1)[0]
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, "vanilla") as first, attach(other, load_pipeline("random", QUARTER)) as last:
        logits_of(model, inputs)
        logits_of(other, inputs)
    assert first.realised[0].retention_ratio == 1
    assert last.realised[0].n_tokens == KEPT


# --- refusals ---------------------------------------------------------------------------------


def test_nested_attach_is_refused_and_changes_nothing(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, load_pipeline("random", QUARTER)) as session:
        with pytest.raises(CapabilityError, match="attached already"), attach(model, "vanilla"):
            pytest.fail("a second attach went through")
        logits_of(model, inputs)
    assert session.realised[0].n_tokens == KEPT


def test_an_unknown_model_is_refused():
    with (
        pytest.raises(CapabilityError, match="no adapter for Linear; supported: LlavaOnevision"),
        attach(torch.nn.Linear(2, 2), "vanilla"),
    ):
        pytest.fail("an unknown model was attached")


@pytest.mark.parametrize(
    ("version", "fits"), [("4.57.6", False), ("5.9.0", False), ("5.10.0", True), ("6.0.0", False)]
)
def test_old_transformers_are_refused(model, monkeypatch, version, fits):
    monkeypatch.setattr("transformers.__version__", version)
    if fits:
        adapter_for(model)
    else:
        with pytest.raises(CapabilityError, match=rf"needs transformers 5\.10 .* {version}"):
            adapter_for(model)


def test_a_subclass_is_served(model):
    class Own(type(model)):
        pass

    assert adapter_for(Own(model.config)).grid == (6, 6)


def test_a_cue_beyond_the_tower_is_refused_at_once(model):
    deep = load_pipeline("top-attention", {"stages.frame.selector.layer": 9})
    with (
        pytest.raises(CapabilityError, match=r"layer 9 lies outside .* has 4 layers"),
        attach(model, deep),
    ):
        pytest.fail("a layer that does not exist was accepted")
    assert "forward" not in vars(model)


@pytest.mark.parametrize("pipeline", [None, 3])
def test_what_is_no_pipeline_is_refused(pipeline):
    with pytest.raises(ConfigError, match="is needed, got"):
        _resolve(pipeline)  # types are checked in tests, so attach would not get as far


def test_unknown_positions_are_refused(model):
    with (
        pytest.raises(ConfigError, match="unknown positions 'orginal'; did you mean 'original'"),
        attach(model, "vanilla", positions="orginal"),
    ):
        pytest.fail("unknown positions were accepted")


def without_ids(inputs, model):
    return {name: value for name, value in inputs.items() if name != "input_ids"}


def with_positions(inputs, model):
    return {**inputs, "position_ids": torch.zeros_like(inputs["input_ids"])}


def with_embeddings(inputs, model):
    return {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}


def with_square_mask(inputs, model):
    return {**inputs, "attention_mask": inputs["attention_mask"][:, None, None]}


def with_history(inputs, model):
    text = inputs["input_ids"][:, :3]
    return {**inputs, "past_key_values": model(input_ids=text, use_cache=True).past_key_values}


def with_encoded_video(inputs, model):
    return {"input_ids": inputs["input_ids"], "mm_encoder_outputs": {"video": object()}}


def with_fewer_frames(inputs, model):
    return {**inputs, "pixel_values_videos": inputs["pixel_values_videos"][:, 1:]}


def with_flat_pixels(inputs, model):
    return {**inputs, "pixel_values_videos": inputs["pixel_values_videos"][0]}


def with_a_short_mask(inputs, model):
    return {**inputs, "attention_mask": inputs["attention_mask"][:, 1:]}


def with_flat_ids(inputs, model):
    return {**inputs, "input_ids": inputs["input_ids"][0]}


def with_no_frames(inputs, model):
    return {**inputs, "pixel_values_videos": inputs["pixel_values_videos"][:, :0]}


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (without_ids, InputError, "needs input_ids"),
        (with_positions, CapabilityError, "position_ids cannot be given"),
        (with_embeddings, CapabilityError, "inputs_embeds cannot be given"),
        (with_square_mask, CapabilityError, "attention_mask must be"),
        (with_history, CapabilityError, "in the middle of a cached conversation"),
        (with_encoded_video, CapabilityError, "encoded beforehand"),
        (with_fewer_frames, InputError, "hold 37 video placeholders, but the videos need 28"),
        (with_flat_pixels, InputError, r"got shape \(4, 3, 24, 24\)"),
        (with_no_frames, InputError, r"got shape \(1, 0, 3, 24, 24\)"),
        (with_a_short_mask, InputError, "both alike"),
        (with_flat_ids, InputError, "both alike"),
    ],
)
def test_inputs_that_cannot_be_shortened_are_refused(loaded, model, change, error, sentence):
    inputs = change(make_inputs(loaded, *CASES["single"]), model)
    with attach(model, "vanilla"), pytest.raises(error, match=sentence):
        logits_of(model, inputs)


def test_an_empty_cache_is_welcome(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, load_pipeline("random", QUARTER)):
        expected = greedy(model, inputs)
        cache = transformers.DynamicCache(config=model.config.text_config)
        assert torch.equal(greedy(model, inputs, past_key_values=cache), expected)


@pytest.mark.parametrize("name", ["prompt_lookup_num_tokens", "prefill_chunk_size"])
@pytest.mark.parametrize("in_config", [False, True])
def test_decoding_that_needs_the_words_is_refused(loaded, model, in_config, name):
    inputs = make_inputs(loaded, *CASES["single"])
    options = {name: 3}
    if in_config:
        options = {"generation_config": transformers.GenerationConfig(**options)}
    with (
        attach(model, load_pipeline("random", QUARTER)),
        pytest.raises(CapabilityError, match=f"{name} cannot be used"),
    ):
        model.generate(**inputs, **options)


# --- going on from a cache --------------------------------------------------------------------

FASTV = {
    "stages": {
        "pool": {"kind": "pool"},
        "llm": {"kind": "llm", "reducer": {"name": "ranked", "schedule": {1: 0.5}}},
    }
}


@torch.no_grad()
def go_on(model, cache, n_tokens=1):
    """One step behind a cache, as a decode loop written by hand takes it."""
    return model(input_ids=torch.full((1, n_tokens), 65), past_key_values=cache, use_cache=True)


def test_a_second_turn_on_the_cache_of_a_reduced_prompt_is_refused(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, load_pipeline("random", QUARTER)):
        first = greedy(model, inputs, return_dict_in_generate=True)
        ids = torch.cat((first.sequences, torch.full((1, 3), 65)), 1)
        with pytest.raises(CapabilityError, match="give generate the whole conversation again"):
            model.generate(input_ids=ids, past_key_values=first.past_key_values)


def test_a_cache_that_lacks_tokens_is_refused_where_nobody_knows_of_it(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, FASTV):
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
            go_on(model, cache)
            written = greedy(model, inputs, return_dict_in_generate=True).past_key_values
        for stale in (cache, written):
            with pytest.raises(CapabilityError, match="lacks tokens that were dropped"):
                go_on(model, stale)
        with torch.no_grad():
            cache = model(**inputs, use_cache=True).past_key_values
    with pytest.raises(CapabilityError, match="lacks tokens that were dropped"):
        go_on(model, cache, n_tokens=2)


@pytest.mark.parametrize("pipeline", [("random", QUARTER), (FASTV, {})], ids=["random", "fastv"])
@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_a_loop_by_hand_goes_on_where_generate_does(loaded, pipeline, positions):
    model = copy.deepcopy(loaded[0]).double()
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, load_pipeline(*pipeline), positions=positions):
        expected = greedy(model, inputs)[0, -6:].tolist()
        found, unwanted_ids = [], unwanted(model)
        with torch.no_grad():
            output = model(**inputs, use_cache=True)
            for _ in range(6):
                logits = output.logits[:, -1]
                logits[:, unwanted_ids] = -torch.inf
                found.append(int(logits.argmax()))
                token = torch.tensor([[found[-1]]])
                output = model(input_ids=token, past_key_values=output.past_key_values)
    assert found == expected


def test_a_faulty_stage_inside_the_llm_is_named():
    data = copy.deepcopy(FASTV)
    data["stages"]["llm"]["reducer"]["schedule"] = {0: 0.5}
    with pytest.raises(ConfigError, match=r"stages\.llm\.reducer\.schedule: there is no attention"):
        load_pipeline(data)
