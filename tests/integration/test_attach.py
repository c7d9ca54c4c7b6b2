"""A real model class with tiny random weights runs on reduced videos."""

import inspect

import pytest
import torch

from tokenred.errors import CapabilityError, ConfigError, InputError
from tokenred.models import adapter_for, attach, reduce_video
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import (
    llava_onevision_inputs,
    synthetic_video,
    tiny_llava_onevision,
)

transformers = pytest.importorskip("transformers")

CELLS, N_FRAMES = 9, 4
QUARTER = {"budget.retention_ratio": 0.25}
KEPT = 3 * N_FRAMES  # ceil(9 * 0.25) a frame
PRESETS = ("random", "downsample", "no-merge", "aot-paper", "aot-dynamic", "top-attention")


@pytest.fixture(scope="module")
def loaded():
    return tiny_llava_onevision()


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


def make_inputs(loaded, *prompts, n_images=0, padding="left", size=24, n_frames=N_FRAMES):
    """Inputs of prompts, each ``<video>`` and ``<image>`` in them a picture of its own."""
    model, tokenizer = loaded
    n_videos = sum(prompt.count("<video>") for prompt in prompts)
    videos = [synthetic_video(n_frames, size, seed=seed) for seed in range(n_videos)]
    images = [synthetic_video(1, size, seed=50 + seed)[0] for seed in range(n_images)]
    tokenizer.padding_side = padding
    try:
        return llava_onevision_inputs(model, tokenizer, prompts, videos, images)
    finally:
        tokenizer.padding_side = "left"


CASES = {
    "single": ("Watch: <video> what is it?",),
    "padded": ("<video> what?", "Look at this film: <video> and then what happens?"),
    "two-videos": ("First <video> then <video> differ?",),
    "adjacent": ("<video><video> same?",),
    "mixed": ("a <video> b <video> c", "no film here", "<video> one?"),
}


@pytest.fixture(params=CASES)
def inputs(request, loaded):
    return make_inputs(loaded, *CASES[request.param])


@torch.no_grad()
def logits_of(model, inputs, **kwargs):
    return model(**inputs, **kwargs).logits


def unwanted(model):
    """Tokens that a random model may say, but which would end or upset a dialogue."""
    config = model.config
    return [model.generation_config.eos_token_id, config.image_token_id, config.video_token_id]


def greedy(model, inputs, **kwargs):
    kwargs = {"max_new_tokens": 6, "suppress_tokens": unwanted(model), **kwargs}
    return model.generate(**inputs, do_sample=False, **kwargs)


@torch.no_grad()
def greedy_without_cache(model, inputs, n_tokens):
    """Greedy tokens, each from a whole forward pass over a prompt that grows."""
    inputs = dict(inputs)
    for _ in range(n_tokens):
        logits = model(**inputs, use_cache=False).logits[:, -1:]
        logits[..., unwanted(model)] = -torch.inf
        token = logits.argmax(-1)
        inputs["input_ids"] = torch.cat((inputs["input_ids"], token), 1)
        inputs["attention_mask"] = torch.cat(
            (inputs["attention_mask"], torch.ones_like(token)), dim=1
        )
    return inputs["input_ids"]


# --- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_vanilla_logits_are_bit_equal(model, inputs, positions):
    expected = logits_of(model, inputs)
    with attach(model, "vanilla", positions=positions) as session:
        found = logits_of(model, inputs)
    real = inputs["attention_mask"].bool()
    if positions == "contiguous":
        assert torch.equal(found[real], expected[real])
    else:  # counted from the first real token, while the model counts padding
        assert (found[real] - expected[real]).abs().max() < 1e-5
    assert len(session.realised) == len(inputs["pixel_values_videos"])
    assert all(each.retention_ratio == 1 for each in session.realised)


def test_vanilla_generates_the_same(model, inputs):
    expected = greedy(model, inputs)
    with attach(model, "vanilla"):
        assert torch.equal(greedy(model, inputs), expected)


@pytest.mark.parametrize("grid", [5, 7])
def test_vanilla_logits_are_bit_equal_on_odd_grids(grid):
    loaded = tiny_llava_onevision(grid=grid)
    inputs = make_inputs(loaded, "see <video> now", size=4 * grid)
    expected = logits_of(loaded[0], inputs)
    with attach(loaded[0], "vanilla"):
        assert torch.equal(logits_of(loaded[0], inputs), expected)


def test_vanilla_logits_are_bit_equal_with_padding_on_the_right(loaded, model):
    inputs = make_inputs(loaded, *CASES["padded"], padding="right")
    assert not inputs["attention_mask"][:, -1].all()
    expected = logits_of(model, inputs)
    with attach(model, "vanilla"):
        found = logits_of(model, inputs)
    assert torch.equal(found, expected)


def test_vanilla_logits_are_bit_equal_under_eager_attention():
    loaded = tiny_llava_onevision(attn_implementation="eager")
    inputs = make_inputs(loaded, *CASES["padded"])
    expected = logits_of(loaded[0], inputs)
    with attach(loaded[0], "vanilla"):
        assert torch.equal(logits_of(loaded[0], inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs(loaded, dtype):
    model = tiny_llava_onevision()[0].to(dtype)
    inputs = make_inputs(loaded, *CASES["padded"])
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(dtype)
    expected = logits_of(model, inputs)
    with attach(model, "vanilla"):
        assert torch.equal(logits_of(model, inputs), expected)
    with attach(model, load_pipeline("aot-paper", QUARTER)) as session:
        found = logits_of(model, inputs)
        assert greedy(model, inputs).shape[0] == 2
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert all(each.features.dtype == dtype for each in session.reduced)


def test_images_beside_the_video_are_left_alone(loaded, model):
    inputs = make_inputs(loaded, "<image> or <video> ?", "<video>, then <image>!", n_images=2)
    expected, tokens = logits_of(model, inputs), greedy(model, inputs)
    with attach(model, "vanilla"):
        found = logits_of(model, inputs)
        assert torch.equal(greedy(model, inputs), tokens)
    real = inputs["attention_mask"].bool()
    assert torch.equal(found[real], expected[real])
    with attach(model, load_pipeline("random", QUARTER)):
        short = logits_of(model, inputs)
        assert greedy(model, inputs).shape == tokens.shape
    assert short.shape[1] == expected.shape[1] - N_FRAMES * CELLS + KEPT


# --- reduction --------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_quarter_shrinks_exactly(loaded, model, preset):
    inputs = make_inputs(loaded, *CASES["two-videos"])
    lengths = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    full = inputs["input_ids"].shape[1]
    try:
        with attach(model, load_pipeline(preset, QUARTER)) as session:
            output = greedy(model, inputs)
    finally:
        hook.remove()
    assert lengths[0] == full - 2 * (N_FRAMES * CELLS - KEPT)
    assert lengths[1:] == [1] * (len(lengths) - 1)
    assert torch.equal(output[:, :full], inputs["input_ids"])
    for realised in session.realised:
        assert (realised.n_tokens, realised.vanilla_tokens) == (KEPT, N_FRAMES * CELLS)
        assert realised.newline_tokens == 1
    assert [len(each.features) for each in session.reduced] == [KEPT, KEPT]


def masked_reference(model, inputs, reduced):
    """Logits of the unreduced prompt with the dropped columns hidden from attention."""
    mask = inputs["attention_mask"].clone()
    columns = (inputs["input_ids"] == model.config.video_token_id).nonzero()
    for row_columns, video in zip(columns.split(N_FRAMES * CELLS + 1), reduced, strict=True):
        keep = video.frame_index * CELLS + video.token_index
        dropped = torch.ones(N_FRAMES * CELLS + 1, dtype=torch.bool)
        dropped[keep] = dropped[-1] = False
        mask[tuple(row_columns[dropped].T)] = 0
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    logits = logits_of(model, {**inputs, "attention_mask": mask}, position_ids=positions)
    return [row[kept.bool()] for row, kept in zip(logits, mask, strict=True)]


def test_original_positions_equal_a_masked_full_prompt(model, inputs):
    with attach(model, load_pipeline("random", QUARTER), positions="original") as session:
        found = logits_of(model, inputs)
    for row, expected in zip(
        found, masked_reference(model, inputs, session.reduced), strict=True
    ):
        assert (row[-len(expected) :] - expected).abs().max() < 1e-5


def rotary_positions(model, call):
    """Return the position ids that reached the rotary embedding, one tensor a pass."""
    seen = []
    rotary = model.model.language_model.rotary_emb
    hook = rotary.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs.get("position_ids", args[-1])),
        with_kwargs=True,
    )
    try:
        call()
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("generating", [False, True])
@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_positions_are_the_declared_ones(loaded, model, positions, generating):
    inputs = make_inputs(loaded, *CASES["single"])
    run = greedy if generating else logits_of
    with attach(model, load_pipeline("random", QUARTER), positions=positions) as session:
        seen = rotary_positions(model, lambda: run(model, inputs))
    full = inputs["input_ids"].shape[1]
    start = inputs["input_ids"][0].tolist().index(model.config.video_token_id)
    (video,) = session.reduced
    kept = start + video.frame_index * CELLS + video.token_index
    after = torch.arange(start + N_FRAMES * CELLS, full)
    expected = torch.cat((torch.arange(start), kept, after))
    if positions == "contiguous":
        expected = torch.arange(len(expected))
    assert seen[0].tolist() == [expected.tolist()]
    for step, later in enumerate(seen[1:], start=1):
        assert later.tolist() == [[int(expected[-1]) + step]]
    assert len(seen) == (6 if generating else 1)


def test_merged_tokens_reach_the_model(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    with attach(model, load_pipeline("aot-paper", QUARTER)) as session:
        merged = logits_of(model, inputs)
    with attach(model, load_pipeline("no-merge", QUARTER)) as plain:
        unmerged = logits_of(model, inputs)
    assert torch.equal(session.reduced[0].token_index, plain.reduced[0].token_index)
    assert not torch.equal(merged, unmerged)


def test_tokens_may_be_emitted_twice(loaded, model):
    inputs = make_inputs(loaded, *CASES["padded"])
    released = load_pipeline(
        "aot-released", {"inter_frame.segmenter.n_segments": 2, "intra_frame.n_anchors": 18}
    )
    for positions in ("contiguous", "original"):
        with attach(model, released, positions=positions) as session:
            logits = logits_of(model, inputs)
            assert torch.equal(greedy(model, inputs), greedy_without_cache(model, inputs, 6))
        places = [(v.frame_index * CELLS + v.token_index).tolist() for v in session.reduced]
        assert any(len(set(each)) < len(each) for each in places)
        text = inputs["attention_mask"].sum(1) - N_FRAMES * CELLS
        kept = torch.tensor([each.n_tokens for each in session.realised])
        assert logits.shape[1] == int((text + kept).max())


def test_a_pipeline_may_end_on_another_grid(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    coarse = {"stages": {"pool": {"kind": "pool", "mode": "average", "stride": 3}}}
    with attach(model, {**coarse, "budget": {"mode": "as-released"}}) as session:
        logits = logits_of(model, inputs)
    assert session.reduced[0].grid == (2, 2)
    assert session.realised[0].n_tokens == 4 * N_FRAMES
    assert logits.shape[1] == inputs["input_ids"].shape[1] - 5 * N_FRAMES


@pytest.mark.parametrize("preset", ["random", "aot-paper", "aot-released"])
def test_a_padded_batch_equals_its_rows(loaded, model, preset):
    batch = make_inputs(loaded, *CASES["padded"])
    pipeline = load_pipeline(preset)
    with attach(model, pipeline):
        found, tokens = logits_of(model, batch), greedy(model, batch)
        for row, mask in enumerate(batch["attention_mask"].bool()):
            single = {
                "input_ids": batch["input_ids"][row][mask][None],
                "attention_mask": torch.ones(1, int(mask.sum()), dtype=torch.long),
                "pixel_values_videos": batch["pixel_values_videos"][row : row + 1],
            }
            alone = logits_of(model, single)[0]
            assert (found[row, -len(alone) :] - alone).abs().max() < 1e-4
            assert torch.equal(greedy(model, single)[0, -6:], tokens[row, -6:])


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_cache_or_not_the_tokens_are_the_same(model, inputs, positions):
    with attach(model, load_pipeline("random", QUARTER), positions=positions):
        cached = greedy(model, inputs)
        assert torch.equal(greedy(model, inputs, use_cache=False), cached)
        assert torch.equal(greedy_without_cache(model, inputs, 6), cached)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
        {"cache_implementation": "static", "disable_compile": True},
        {"return_dict_in_generate": True, "output_scores": True},
    ],
    ids=str,
)
def test_generate_options_work(loaded, model, options):
    inputs = make_inputs(loaded, *CASES["padded"])

    def run():
        torch.manual_seed(0)
        output = model.generate(**inputs, max_new_tokens=5, **options)
        return output.sequences if options.get("return_dict_in_generate") else output

    expected = run()
    with attach(model, "vanilla"):
        assert torch.equal(run(), expected)
    with attach(model, load_pipeline("random", QUARTER)):
        reduced = run()
    assert reduced.shape == expected.shape
    full = inputs["input_ids"].shape[1]
    assert torch.equal(reduced[:, :full], expected[:, :full])
    assert not torch.equal(reduced, expected)


@pytest.mark.parametrize("in_config", [False, True])
def test_length_limits_count_the_unreduced_prompt(loaded, model, in_config):
    inputs = make_inputs(loaded, *CASES["padded"])
    wanted = inputs["input_ids"].shape[1] + 5
    limits = {"max_length": wanted, "min_length": wanted}
    config = transformers.GenerationConfig(**limits)
    options = {"generation_config": config} if in_config else limits
    with attach(model, load_pipeline("random", QUARTER)):
        assert model.generate(**inputs, **options).shape[1] == wanted
    assert config.max_length == wanted


def test_arguments_may_be_given_by_place(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    names = list(inspect.signature(model.forward).parameters)
    n_given = names.index("pixel_values_videos") + 1
    given = [inputs.get(name) for name in names[:n_given]]
    with attach(model, load_pipeline("random", QUARTER)):
        expected, tokens = logits_of(model, inputs), greedy(model, inputs)
        rest = {"attention_mask": inputs["attention_mask"]}
        with torch.no_grad():
            assert torch.equal(model(*given, **rest).logits, expected)
        rest["pixel_values_videos"] = inputs["pixel_values_videos"]
        found = model.generate(
            inputs["input_ids"], **rest, max_new_tokens=6, suppress_tokens=unwanted(model)
        )
        assert torch.equal(found, tokens)


def test_calls_without_video_pass_untouched(loaded, model):
    inputs = make_inputs(loaded, "no film", "and again no film at all")
    expected, tokens = logits_of(model, inputs), greedy(model, inputs)
    with attach(model, load_pipeline("random", QUARTER)) as session:
        assert torch.equal(logits_of(model, inputs), expected)
        assert torch.equal(greedy(model, inputs), tokens)
    assert session.realised == []


# --- training ---------------------------------------------------------------------------------


def test_gradients_flow_to_the_pixels_and_every_part(loaded):
    model = tiny_llava_onevision()[0]
    inputs = make_inputs(loaded, *CASES["padded"])
    inputs["pixel_values_videos"].requires_grad_()
    with attach(model, load_pipeline("aot-paper", QUARTER)):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert inputs["pixel_values_videos"].grad.abs().sum() > 0
    inner = model.model
    for weight in (
        inner.image_newline,
        inner.multi_modal_projector.linear_1.weight,
        inner.vision_tower.embeddings.patch_embedding.weight,
        inner.language_model.embed_tokens.weight,
    ):
        assert weight.grad.abs().sum() > 0


def test_labels_follow_their_tokens(loaded, model):
    inputs = make_inputs(loaded, *CASES["padded"])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :-4] = -100  # an answer of four tokens, as in training
    with torch.no_grad():
        expected = model(**inputs, labels=labels).loss
        with attach(model, "vanilla"):
            assert torch.equal(model(**inputs, labels=labels).loss, expected)
        with attach(model, load_pipeline("random", QUARTER)):
            loss = model(**inputs, labels=labels).loss
            logits = model(**inputs).logits
    by_hand = torch.nn.functional.cross_entropy(
        logits[:, -5:-1].flatten(0, 1), labels[:, -4:].flatten()
    )
    assert torch.allclose(loss, by_hand)
    assert not torch.allclose(loss, expected)


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
    ("version", "fits"), [("4.57.6", False), ("5.9.0", False), ("5.10.0", True), ("6.1", True)]
)
def test_old_transformers_are_refused(model, monkeypatch, version, fits):
    monkeypatch.setattr("tokenred.models.base.version", {"transformers": version}.get)
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
        pytest.raises(CapabilityError, match="layer 9 lies outside .* has 4 layers"),
        attach(model, deep),
    ):
        pytest.fail("a layer that does not exist was accepted")
    assert "forward" not in vars(model)


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


# --- encode once, ask much --------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["vanilla", "aot-paper", "aot-released"])
def test_answer_logits_equal_one_call_a_prompt(loaded, model, preset):
    model_, tokenizer = loaded
    video = synthetic_video(N_FRAMES, seed=3)
    texts = ["Q <video> a?", "Q <video> what colour is it?", "Other <video> a?", "Q <video>?"]
    singles = [llava_onevision_inputs(model, tokenizer, [text], [video]) for text in texts]
    adapter, pipeline = adapter_for(model), load_pipeline(preset)
    pixels = singles[0]["pixel_values_videos"]
    (reduced,) = reduce_video(adapter, pixels, pipeline)
    found = adapter.answer_logits(reduced, [each["input_ids"][0] for each in singles])
    assert found.shape == (4, len(tokenizer))
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
    pixels = make_inputs(loaded, "<video>")["pixel_values_videos"]
    (reduced,) = reduce_video(adapter, pixels, load_pipeline("vanilla"))
    with pytest.raises(InputError, match=sentence):
        adapter.answer_logits(reduced, [inputs["input_ids"][0]])


def test_frame_times_travel_with_the_tokens(loaded, model):
    inputs = make_inputs(loaded, *CASES["two-videos"])
    times = [torch.tensor([0.0, 0.5, 1.0, 9.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])]
    found = adapter_for(model).encode(inputs["pixel_values_videos"], frame_times=times)
    assert [each.frame_times.tolist() for each in found] == [each.tolist() for each in times]
    assert found[0].native_pool == "bilinear"
    assert adapter_for(model).vanilla_tokens(N_FRAMES) == N_FRAMES * CELLS
