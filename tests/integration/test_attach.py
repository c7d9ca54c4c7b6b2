"""A real model class with tiny random weights runs on reduced videos."""

import copy
import inspect
from contextlib import contextmanager

import pytest
import torch

from tests.attach_cases import (
    CASES,
    CELLS,
    KEPT,
    N_FRAMES,
    QUARTER,
    greedy,
    greedy_without_cache,
    logits_of,
    make_inputs,
    unwanted,
)
from tokenred.errors import InputError
from tokenred.models import attach
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import tiny_llava_onevision

transformers = pytest.importorskip("transformers")

PRESETS = ("random", "downsample", "no-merge", "aot-paper", "aot-dynamic", "top-attention")


@pytest.fixture(scope="module")
def loaded():
    return tiny_llava_onevision()


@pytest.fixture(scope="module")
def model(loaded):
    return loaded[0]


@pytest.fixture(scope="module")
def exact(loaded):
    """The same model in double precision, where two ways to one result agree closely."""
    return copy.deepcopy(loaded[0]).double()


@pytest.fixture(params=CASES)
def inputs(request, loaded):
    return make_inputs(loaded, *CASES[request.param])


# --- identity ---------------------------------------------------------------------------------


def test_vanilla_logits_are_bit_equal(model, inputs):
    expected = logits_of(model, inputs)
    with attach(model, "vanilla") as session:
        found = logits_of(model, inputs)
    real = inputs["attention_mask"].bool()
    assert torch.equal(found[real], expected[real])
    assert len(session.realised) == len(inputs["pixel_values_videos"])
    assert all(each.retention_ratio == 1 for each in session.realised)


def test_vanilla_logits_are_equal_at_original_positions(exact, inputs):
    """Not to the bit: tokenred counts from the first real token, the model counts padding too."""
    expected = logits_of(exact, inputs)
    with attach(exact, "vanilla", positions="original"):
        found = logits_of(exact, inputs)
    real = inputs["attention_mask"].bool()
    assert (found[real] - expected[real]).abs().max() < 1e-5


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


IMAGE = 36 + 6 * 7  # an overview, and one tile with a newline a row


def test_images_and_videos_of_one_prompt(loaded, model):
    inputs = make_inputs(loaded, "<image> or <video> ?", "<video>, then <image>!", n_images=2)
    expected, tokens = logits_of(model, inputs), greedy(model, inputs)
    with attach(model, "vanilla") as session:
        found = logits_of(model, inputs)
        assert torch.equal(greedy(model, inputs), tokens)
    assert [clip.layout.kind for clip in session.clips] == ["image"] * 4 + ["video"] * 2
    real = inputs["attention_mask"].bool()
    assert torch.equal(found[real], expected[real])
    with attach(model, load_pipeline("random", QUARTER)) as session:
        short = logits_of(model, inputs)
        assert greedy(model, inputs).shape == tokens.shape
    saved = N_FRAMES * CELLS - KEPT
    newlines = session.realised[1].newline_tokens
    assert [each.n_tokens for each in session.realised] == [9, 9] * 2 + [KEPT, KEPT]
    assert 1 <= newlines <= 6
    assert short.shape[1] == expected.shape[1] - saved - IMAGE + 9 + 9 + max(
        session.realised[1].newline_tokens, session.realised[3].newline_tokens
    )


def test_only_the_media_asked_for_are_reduced(loaded, model):
    inputs = make_inputs(loaded, "<image> or <video> ?", n_images=1)
    full = inputs["input_ids"].shape[1]
    with attach(model, load_pipeline("random", QUARTER), media=("video",)) as session:
        assert logits_of(model, inputs).shape[1] == full - N_FRAMES * CELLS + KEPT
    assert [each.retention_ratio for each in session.realised[:2]] == [1, 1]
    with attach(model, load_pipeline("random", QUARTER), media=("image",)) as session:
        logits_of(model, inputs)
    assert [each.retention_ratio for each in session.realised] == [0.25, 0.25, 1]


@pytest.mark.parametrize("preset", ["aot-paper", "no-merge", "top-attention", "downsample"])
def test_every_preset_takes_images(loaded, model, preset):
    inputs = make_inputs(loaded, "look: <image> what?", n_images=1)
    with attach(model, load_pipeline(preset, QUARTER)) as session:
        assert torch.isfinite(logits_of(model, inputs)).all()
    assert [each.n_tokens for each in session.realised] == [9, 9]


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


def test_original_positions_equal_a_masked_full_prompt(exact, inputs):
    with attach(exact, load_pipeline("random", QUARTER), positions="original") as session:
        found = logits_of(exact, inputs)
    for row, expected in zip(found, masked_reference(exact, inputs, session.reduced), strict=True):
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


def test_tokens_may_be_emitted_twice(loaded, exact):
    inputs = make_inputs(loaded, *CASES["padded"])
    released = load_pipeline(
        "aot-released", {"inter_frame.segmenter.n_segments": 2, "intra_frame.n_anchors": 18}
    )
    for positions in ("contiguous", "original"):
        with attach(exact, released, positions=positions) as session:
            logits = logits_of(exact, inputs)
            assert torch.equal(greedy(exact, inputs), greedy_without_cache(exact, inputs, 6))
        places = [(v.frame_index * CELLS + v.token_index).tolist() for v in session.reduced]
        assert any(len(set(each)) < len(each) for each in places)
        text = inputs["attention_mask"].sum(1) - N_FRAMES * CELLS - 1  # without the newline
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
def test_a_padded_batch_equals_its_rows(loaded, exact, preset):
    batch = make_inputs(loaded, *CASES["padded"])
    pipeline = load_pipeline(preset)
    with attach(exact, pipeline):
        found, tokens = logits_of(exact, batch), greedy(exact, batch)
        for row, mask in enumerate(batch["attention_mask"].bool()):
            single = {
                "input_ids": batch["input_ids"][row][mask][None],
                "attention_mask": torch.ones(1, int(mask.sum()), dtype=torch.long),
                "pixel_values_videos": batch["pixel_values_videos"][row : row + 1],
            }
            alone = logits_of(exact, single)[0]
            assert (found[row, -len(alone) :] - alone).abs().max() < 1e-5
            assert torch.equal(greedy(exact, single)[0, -6:], tokens[row, -6:])


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_cache_or_not_the_tokens_are_the_same(exact, inputs, positions):
    with attach(exact, load_pipeline("random", QUARTER), positions=positions):
        assert torch.equal(greedy_without_cache(exact, inputs, 6), greedy(exact, inputs))


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


@pytest.mark.parametrize("where", ["call", "config", "model"])
def test_length_limits_count_the_unreduced_prompt(loaded, model, where, monkeypatch):
    inputs = make_inputs(loaded, *CASES["padded"])
    wanted = inputs["input_ids"].shape[1] + 5
    limits = {"max_length": wanted, "min_length": wanted}
    config = transformers.GenerationConfig(**limits)
    options = {"call": limits, "config": {"generation_config": config}, "model": {}}[where]
    if where == "model":
        for name, value in limits.items():
            monkeypatch.setattr(model.generation_config, name, value)
    with attach(model, load_pipeline("random", QUARTER)):
        assert model.generate(**inputs, **options).shape[1] == wanted
        news = {"max_new_tokens": 2, "min_new_tokens": 2}
        if where == "model":  # limits of new tokens go before the model's own
            assert model.generate(**inputs, **news).shape[1] == wanted - 3
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


def test_padding_has_no_label(loaded, model):
    inputs = make_inputs(loaded, *CASES["padded"])
    real = (inputs["attention_mask"] > 0) & (inputs["input_ids"] != model.config.video_token_id)
    labels = inputs["input_ids"].where(real, -100)
    with torch.no_grad():
        expected = model(**inputs, labels=labels).loss
        with attach(model, "vanilla"):
            assert torch.equal(model(**inputs, labels=labels).loss, expected)


def test_labels_follow_their_tokens(loaded, model):
    inputs = make_inputs(loaded, *CASES["single"])
    labels = inputs["input_ids"].clone()
    video = labels[0] == model.config.video_token_id
    labels[0, video] = -100
    with torch.no_grad():
        expected = model(**inputs, labels=labels).loss
        with attach(model, "vanilla"):
            assert torch.equal(model(**inputs, labels=labels).loss, expected)
        with attach(model, load_pipeline("random", QUARTER)):
            loss = model(**inputs, labels=labels).loss
            logits = model(**inputs).logits[0]
    first, last = int(video.nonzero()[0]), int(video.nonzero()[-1])
    hidden = torch.full((KEPT + 1,), -100)
    short = torch.cat((labels[0, :first], hidden, labels[0, last + 1 :]))
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits[:-1], short[1:]))
    assert not torch.allclose(loss, expected)


# --- what a call is told ------------------------------------------------------------------------


def test_seconds_of_the_frames_reach_the_strategies(loaded, model):
    inputs = make_inputs(loaded, "<video> what?", "<video> and then?")
    times = [torch.arange(N_FRAMES) * step for step in (0.5, 3.0)]
    with attach(model, "vanilla", frame_times=times) as attachment:
        logits_of(model, inputs)
    assert all(
        torch.equal(clip.tokens.frame_times, each)
        for clip, each in zip(attachment.clips, times, strict=True)
    )
    with (
        attach(model, "vanilla", frame_times=times[:1]),
        pytest.raises(InputError, match="frame_times are of 1 videos, the call has 2"),
    ):
        logits_of(model, inputs)


def test_random_strategies_draw_from_the_generator_given(loaded, model):
    inputs = make_inputs(loaded, "<video> what?", "<video> and then?")
    kept = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        with attach(model, load_pipeline("random", QUARTER), generator=generator) as attachment:
            logits_of(model, inputs)
        first, second = (each.token_index.tolist() for each in attachment.reduced)
        assert first == second
        kept.append(first)
    assert kept[0] == kept[1] != kept[2]


def test_an_observer_stands_around_encoding_and_reducing(loaded, model):
    class Noting:
        def __init__(self):
            self.log = []

        @contextmanager
        def encoding(self):
            self.log.append("encode")
            yield
            self.log.append("encoded")

        @contextmanager
        def reducing(self):
            self.log.append("reduce")
            yield

    observer = Noting()
    with attach(model, "aot-paper", observer=observer, trace=True) as attachment:
        logits_of(model, make_inputs(loaded, "<video> what?", "<video> and then?"))
    assert observer.log == ["encode", "encoded", "reduce", "reduce"]
    assert all(each.trace is not None for each in attachment.reduced)
