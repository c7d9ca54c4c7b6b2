import pytest
import torch
from tokenred_methods.visionzip.add_mean import AddMeanAggregator
from tokenred_methods.visionzip.evenly_spaced import EvenlySpacedConfig, EvenlySpacedSelector

from tokenred import Coupling, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens

EXACT = ["visionzip", "visionzip-clip"]
RELEASED = ["visionzip-released", "visionzip-released-llava-video", "visionzip-clip-released"]
LAYOUTS = [("bilinear", 32, 196), ("average", 4, 169)]


@parametrize_checks(EvenlySpacedSelector(EvenlySpacedConfig()))
def test_even_spacing_keeps_the_contract(check):
    check()


@parametrize_checks(EvenlySpacedSelector(EvenlySpacedConfig(spacing="whole-step")))
def test_whole_steps_keep_the_contract(check):
    check()


@parametrize_checks(AddMeanAggregator())
def test_add_mean_keeps_the_contract(check):
    check()


def picks(n, anchors, spacing):
    tokens = VisualTokens.of(torch.zeros(1, n, 1), (1, n))
    selector = EvenlySpacedSelector(EvenlySpacedConfig(spacing=spacing))
    return selector.select(tokens, anchors, generator=torch.Generator())[0].tolist()


def test_whole_steps_leave_the_tail_without_a_target():
    assert picks(124, 7, "whole-step") == [0, 17, 34, 51, 68, 85, 102]
    assert picks(124, 7, "even") == [0, 18, 36, 54, 71, 89, 107]


def test_both_spacings_agree_where_the_number_divides():
    assert picks(120, 8, "whole-step") == picks(120, 8, "even") == list(range(0, 120, 15))


def test_only_open_tokens_are_counted():
    tokens = VisualTokens.of(torch.zeros(2, 9, 1), (3, 3))
    tokens.keep[0, [0, 1, 2]] = False
    tokens.keep[1, [6, 7, 8]] = False
    selector = EvenlySpacedSelector(EvenlySpacedConfig())
    chosen = selector.select(tokens, 3, generator=torch.Generator())
    assert chosen.tolist() == [[3, 5, 7], [0, 2, 4]]


def test_a_merged_token_gets_twice_the_weight_and_a_lonely_one_stays():
    plan = torch.tensor([[0.25, 0, 0], [0.25, 0, 0], [0, 0.25, 0], [0, 0.25, 0]])
    coupling = Coupling.direct(plan, -plan, torch.full((4,), 0.25), torch.full((3,), 1 / 3))
    weights = AddMeanAggregator().weights(coupling)
    assert weights.anchor.tolist() == [1, 1, 1]
    assert weights.source.tolist() == [[0.5, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0.5, 0]]


def on_video(name, overrides, native_pool="bilinear", frames=4):
    pipeline = load_pipeline(name, overrides)
    tokens = video_tokens(
        frames, (27, 27), needs=pipeline.needs, dim=8, native_pool=native_pool, seed=3
    )
    return pipeline, tokens


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize(("native_pool", "frames", "cells"), LAYOUTS)
def test_budgets_are_met_in_every_frame(name, ratio, native_pool, frames, cells):
    pipeline, tokens = on_video(name, {"budget.retention_ratio": ratio}, native_pool, frames)
    kept = pipeline.run(tokens).realised.tokens_per_frame
    assert kept == (-(-cells * round(100 * ratio) // 100),) * frames


@pytest.mark.parametrize(("ratio", "kept"), [(0.10, 20), (0.15, 30), (0.20, 40), (0.25, 50)])
def test_the_release_keeps_the_numbers_of_its_scripts(ratio, kept):
    for name in RELEASED[:2]:
        pipeline, tokens = on_video(name, {"budget.retention_ratio": ratio})
        assert pipeline.run(tokens).realised.tokens_per_frame == (kept,) * 4


@pytest.mark.parametrize(("ratio", "kept"), [(0.10, 63), (0.38, 220)])
def test_the_clip_release_keeps_its_numbers_less_the_class_token(ratio, kept):
    pipeline = load_pipeline("visionzip-clip-released", {"budget.retention_ratio": ratio})
    tokens = video_tokens(1, (24, 24), needs=pipeline.needs, dim=8)
    assert pipeline.run(tokens).realised.n_tokens == kept


@pytest.mark.parametrize("name", EXACT + RELEASED)
def test_the_trace_is_what_was_done(name):
    pipeline, tokens = on_video(name, {})
    reduced = pipeline.run(tokens, trace=True)
    made = reduced.trace.to_dense() @ tokens.features.flatten(0, 1)
    torch.testing.assert_close(made, reduced.features, atol=1e-5, rtol=1e-5)
    total = reduced.trace.to_dense().sum(-1)
    assert (total.max() > 1.9) == (name in RELEASED)
    assert total.min() > 0.999


def test_contextual_tokens_stand_behind_the_dominant_ones_of_their_frame():
    pipeline, tokens = on_video("visionzip", {})
    place = pipeline.run(tokens).token_index.view(4, 20)
    assert bool((place[:, :16].diff() > 0).all())
    assert bool((place[:, 16:].diff() > 0).all())
    assert bool((place[:, 16] < place[:, 15]).any())


def test_rows_are_mixed_up_as_released_and_nothing_else():
    plain, tokens = on_video("visionzip-released", {})
    mixed, _ = on_video("visionzip-released-llava-video", {})
    first, second = plain.run(tokens), mixed.run(tokens)
    places = [set(zip(r.frame_index.tolist(), r.token_index.tolist())) for r in (first, second)]
    assert places[0] == places[1]
    moved = {tuple(row) for row in first.features.tolist()}
    assert moved == {tuple(row) for row in second.features.tolist()}
    by_place = first.features[(196 * first.frame_index + first.token_index).argsort()]
    assert not torch.equal(by_place, second.features)


SWAPS = {
    "dominant.selector": {"name": "local-global", "deep_layer": -1},
    "contextual.selector": {"name": "density-peaks"},
    "contextual.coupler": {"name": "sinkhorn", "epsilon": 0.1},
    "contextual.cost": ["spatial"],
    "contextual.aggregator": {"name": "mass-normalised", "mass": "plan"},
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("part", sorted(SWAPS))
def test_any_part_can_be_another_methods(name, part):
    plain, tokens = on_video(name, {})
    before = plain.run(tokens)
    pipeline, tokens = on_video(name, {part: SWAPS[part]})
    reduced = pipeline.run(tokens)
    assert reduced.realised.n_tokens == before.realised.n_tokens == 80
    assert not torch.equal(reduced.features, before.features)


@pytest.mark.parametrize("name", RELEASED)
def test_released_parts_serve_an_exact_budget(name):
    exact = {
        "budget.mode": "exact",
        "dominant.n_anchors": "budget * 54/64",
        "contextual.n_anchors": "budget",
    }
    pipeline, tokens = on_video(name, exact)
    assert pipeline.run(tokens).realised.n_tokens == 80


def test_a_shuffled_anchor_takes_its_mass_along():
    stage = {
        "kind": "visionzip-released-frame",
        "n_anchors": 2,
        "selector": {"name": "top-attention", "layer": 0},
        "cost": ["spatial"],
        "coupler": "nearest",
        "aggregator": "mean",
    }
    pipeline = load_pipeline({"budget": {"mode": "as-released"}, "stages": {"a": stage}})
    scores = torch.tensor([[0.1, 0.2, 0.8, 0.9]])
    features = torch.tensor([[0.0, 1, 2, 9]])[..., None]
    tokens = VisualTokens.of(features, (1, 4), cues={"attention@0": scores})
    reduced = pipeline.run(tokens, trace=True)
    assert reduced.token_index.tolist() == [2, 3]
    assert reduced.features.flatten().tolist() == [9, 1]
    assert reduced.mass.tolist() == [1, 3]
