from dataclasses import replace

import pytest
import torch
from tokenred_methods.prumerge.neighbours import NeighboursConfig, NeighboursCoupler
from tokenred_methods.prumerge.outliers import OutliersConfig, OutliersSelector, outlier_limit
from tokenred_methods.prumerge.with_samples import WithSamplesConfig, WithSamplesSelector

from tokenred import InputError, VisualTokens, calibrate, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens

EXACT = ["prumerge", "prumerge-plus"]
ADAPTIVE = ["prumerge-adaptive", "prumerge-plus-adaptive"]
RELEASED = ["prumerge-released", "prumerge-plus-released"]
LAYOUTS = [("bilinear", 32, 196), ("average", 4, 169)]
RAMP = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 30, 40])


@parametrize_checks(NeighboursCoupler(NeighboursConfig(neighbours=3)))
def test_neighbours_keep_the_contract(check):
    check()


@parametrize_checks(OutliersSelector(OutliersConfig(fence=0.3)))
def test_outliers_keep_the_contract(check):
    check()


@parametrize_checks(OutliersSelector(OutliersConfig(fence=0.3, scope="video", released=True)))
def test_released_outliers_keep_the_contract(check):
    check()


@parametrize_checks(WithSamplesSelector(WithSamplesConfig()))
def test_samples_keep_the_contract(check):
    check()


@parametrize_checks(WithSamplesSelector(WithSamplesConfig(samples=2.5)))
def test_many_samples_keep_the_contract(check):
    check()


@parametrize_checks(
    WithSamplesSelector(WithSamplesConfig(first="outliers", samples=3, released="adaptive")),
)
def test_released_samples_keep_the_contract(check):
    check()


COST = torch.tensor([[0.1, 0.9], [0.3, 0.2], [0.2, 0.4], [0.3, 0.1]])
MASS = torch.tensor([0.4, 0.3, 0.2, 0.1])


def test_every_anchor_takes_its_cheapest_sources_whole():
    plan = NeighboursCoupler(NeighboursConfig(neighbours=3)).couple(COST, MASS, MASS[:2]).plan
    wanted = [[0.4, 0.0], [0.3, 0.3], [0.2, 0.2], [0.0, 0.1]]  # 0.3 twice: the first source wins
    torch.testing.assert_close(plan, torch.tensor(wanted))


def test_fewer_sources_than_neighbours_all_go_or_fail():
    every = NeighboursCoupler(NeighboursConfig(neighbours=5)).couple(COST, MASS, MASS[:2]).plan
    assert torch.equal(every, MASS[:, None].expand(4, 2))
    strict = NeighboursCoupler(NeighboursConfig(neighbours=5, fewer="error"))
    with pytest.raises(InputError, match="an anchor has 4 sources to choose from, 5 neighbours"):
        strict.couple(COST, MASS, MASS[:2])
    enough = NeighboursCoupler(NeighboursConfig(neighbours=4, fewer="error"))
    assert torch.equal(enough.couple(COST, MASS, MASS[:2]).plan, every)


def test_pairs_that_are_kept_apart_are_nobodys_neighbours():
    apart = torch.zeros(COST.shape, dtype=torch.bool)
    apart[0, 0] = True
    strict = NeighboursCoupler(NeighboursConfig(neighbours=4, fewer="error"))
    with pytest.raises(InputError, match="has 3 sources"):
        strict.couple(COST, MASS, MASS[:2], apart)
    some = NeighboursCoupler(NeighboursConfig(neighbours=4))
    plan = some.couple(COST, MASS, MASS[:2], apart).plan
    assert plan[:, 0].tolist() == pytest.approx([0.0, 0.3, 0.2, 0.1])


def tokens_of(*rows):
    importance = torch.stack(rows)
    frames, n = importance.shape
    return VisualTokens.of(torch.zeros(frames, n, 1), (1, n), cues={"salience@-1": importance})


def outliers(tokens, n_anchors=100, **settings):
    selector = OutliersSelector(OutliersConfig(**settings))
    return selector.select(tokens, n_anchors, generator=torch.Generator())


def test_the_limit_is_that_of_a_box_plot():
    # Quartiles of 1 ... 8, 30, 40 are 3.25 and 7.75.
    assert outlier_limit(RAMP[None], 1.5).tolist() == [[14.5]]
    padded = torch.cat([RAMP, torch.full((3,), -torch.inf)])[None]
    assert outlier_limit(padded, 1.5).tolist() == [[14.5]]


def test_outliers_come_best_first_and_at_most_as_many_as_asked_for():
    assert outliers(tokens_of(RAMP)).tolist() == [[9, 8]]
    assert outliers(tokens_of(RAMP), 1).tolist() == [[9]]
    assert outliers(tokens_of(RAMP), fence=7.2).tolist() == [[9]]


def test_frames_with_fewer_outliers_are_padded():
    found = outliers(tokens_of(RAMP, torch.arange(10.0).square(), RAMP.flip(0)))
    assert found.tolist() == [[9, 8], [9, -1], [0, 1]]


def test_a_frame_without_outliers_keeps_one_token_or_none_as_released():
    flat = tokens_of(torch.arange(10.0))
    assert outliers(flat).tolist() == [[9]]
    assert outliers(flat, released=True).shape == (1, 0)


def test_one_share_for_all_frames_as_released():
    mixed = tokens_of(RAMP, torch.arange(10.0))
    # Pooled quartiles are 2.75 and 7.25, so 2 of 20 are outliers: one a frame.
    assert outliers(mixed, scope="video").tolist() == [[9], [9]]
    assert OutliersSelector(OutliersConfig(scope="video")).looks_across_frames
    assert not OutliersSelector(OutliersConfig()).looks_across_frames


def test_floating_point_loses_a_token_as_released():
    values = torch.arange(49.0)
    values[5] = 500.0
    assert outliers(tokens_of(values)).tolist() == [[5]]
    assert outliers(tokens_of(values), released=True).shape == (1, 0)  # int(49 * (1 / 49)) is 0


def with_samples(tokens, n_anchors, **settings):
    selector = WithSamplesSelector(WithSamplesConfig(**settings))
    return selector.select(tokens, n_anchors, generator=torch.Generator())


BY_ATTENTION = {"name": "top-attention", "layer": -1, "query": "any"}


def test_samples_are_spread_over_what_the_first_selector_left():
    chosen = with_samples(tokens_of(RAMP), 5, first=BY_ATTENTION)
    assert chosen.tolist() == [[9, 8, 7, 0, 4]]
    chosen = with_samples(tokens_of(RAMP), 8, first=BY_ATTENTION, samples=3)
    assert chosen.tolist() == [[9, 8, 0, 2, 3, 4, 6, 7]]


def test_as_many_samples_as_there_are_outliers_to_go_with():
    both = tokens_of(RAMP, RAMP.flip(0))
    assert with_samples(both, 10, first="outliers").tolist() == [[9, 8, 0, 4], [0, 1, 2, 6]]
    three = with_samples(both, 10, first="outliers", samples=3)
    assert three.tolist() == [[9, 8, 0, 2, 3, 4, 6, 7], [0, 1, 2, 4, 5, 6, 8, 9]]
    ragged = tokens_of(torch.arange(10.0).square(), RAMP)
    assert with_samples(ragged, 10, first="outliers").tolist() == [[9, 0, -1, -1], [9, 8, 0, 4]]


def test_released_samples_step_from_the_first_token_and_miss_the_last():
    values = torch.arange(36.0)
    values[[3, 6, 35]] = torch.tensor([500.0, 600.0, 700.0])
    chosen = with_samples(tokens_of(values), 36, first="outliers", samples=3, released="adaptive")
    # 3 of 36: a step of 12, a third of it is 4; the limit of 36 tokens is 24 steps away.
    assert chosen.tolist() == [[35, 6, 3, *range(0, 35, 4)]]
    few = with_samples(tokens_of(values), 12, first="outliers", samples=3, released="adaptive")
    assert few.shape == (1, 12)


def test_released_samples_of_a_fixed_number_may_repeat():
    values = torch.arange(32.0)
    values[6] = 100.0
    chosen = with_samples(tokens_of(values), 8, first=BY_ATTENTION, released="fixed")
    assert chosen.tolist() == [[6, 31, 30, 29, 4, 12, 20, 28]]
    values[12] = 99.0
    chosen = with_samples(tokens_of(values), 8, first=BY_ATTENTION, released="fixed")
    assert chosen.tolist() == [[6, 12, 31, 30, 4, 12, 20, 28]]


def test_released_samples_that_do_not_fit_fail():
    values = tokens_of(torch.arange(70.0))
    with pytest.raises(InputError, match="9 samples do not match 8 chosen tokens"):
        with_samples(values, 16, first=BY_ATTENTION, released="fixed")
    with pytest.raises(InputError, match="18 chosen of 70 tokens leave no room for samples"):
        with_samples(values, 90, first=BY_ATTENTION, samples=4, released="adaptive")


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


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("native_pool", ["bilinear", "average"])
def test_adaptive_presets_can_be_calibrated(name, native_pool):
    path = "stages.kept.selector.first" if "plus" in name else "stages.kept.selector"
    knob = {"knob": f"{path}.fence", "knob_range": [0, 5]}
    wanted = {"retention_ratio": 0.20, "mode": "calibrated", **knob}
    pipeline, tokens = on_video(name, {"budget": wanted}, native_pool)
    frozen = load_pipeline(calibrate(pipeline.config, [tokens]))
    assert frozen.run(tokens).realised.retention_ratio == pytest.approx(0.20, abs=0.01)


NUMBERS = {
    "prumerge-adaptive": (3, 5, 9, 17),  # the outliers, and one
    "prumerge-released": (8, 8, 8, 8),  # 30 of 4 x 729: 7.5 a frame, rounded down
    "prumerge-plus-adaptive": (9, 17, 33, 65),
    # Floating point loses one outlier of each frame. Then a sample every 243, 80, 34 and 16 tokens:
    # 1 + 3, 3 + 10, 7 + 22, 15 + 46 less one that is an outlier itself; and one token for the rest.
    "prumerge-plus-released": (5, 14, 30, 61),
}


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_the_number_follows_from_the_attention(name):
    pipeline, tokens = on_video(name, {}, "none")
    cue = torch.linspace(1, 2, 729).repeat(4, 1)
    for frame, n in enumerate((2, 4, 8, 16)):
        cue[frame, 108 : 108 + n] = 10.0
    (name_of_cue,) = pipeline.stages["kept"].selector.needs
    reduced = pipeline.run(replace(tokens, cues={**tokens.cues, name_of_cue: cue}))
    assert reduced.realised.tokens_per_frame == NUMBERS[name]


@pytest.mark.parametrize("name", EXACT + ADAPTIVE + RELEASED)
def test_the_trace_is_what_was_done(name):
    pipeline, tokens = on_video(name, {})
    reduced = pipeline.run(tokens, trace=True)
    trace = reduced.trace.to_dense()
    made = trace @ tokens.features.flatten(0, 1)
    torch.testing.assert_close(made, reduced.features, atol=1e-5, rtol=1e-5)
    normalised = bool(((trace.sum(-1) - 1).abs() < 1e-4).all())
    assert normalised == (name not in RELEASED)


def test_the_last_token_of_a_frame_stands_for_all_that_was_dropped():
    pipeline, tokens = on_video("prumerge", {}, "none")
    reduced = pipeline.run(tokens, trace=True)
    kept = reduced.token_index.view(4, -1)
    assert bool((kept[:, :-1].diff() > 0).all())
    weights = reduced.trace.to_dense().view(4, -1, 4, 729)
    for frame in range(4):
        dropped = torch.ones(729, dtype=torch.bool)
        dropped[kept[frame, :-1]] = False
        share = tokens.cues["salience@-1"][frame].where(dropped, 0.0)
        last = weights[frame, -1, frame]
        torch.testing.assert_close(last, share / share.sum(), atol=1e-5, rtol=1e-4)
        assert kept[frame, -1] == share.argmax()
        sources = (weights[frame, :-1, frame] > 0).sum(-1)
        assert sources.tolist() == [33] * 72  # 32 neighbours and itself


def test_the_released_order_is_that_of_attention():
    selector = {"name": "top-attention", "layer": -1, "query": "any-joint"}
    overrides = {"kept.n_anchors": 9, "kept.selector": selector}
    pipeline, tokens = on_video("prumerge-released", overrides, "none")
    kept = pipeline.run(tokens).token_index.view(4, 10)
    best = tokens.cues["joint-salience@-1"].argsort(dim=-1, descending=True, stable=True)
    assert torch.equal(kept, best[:, :10])


def test_a_token_cannot_be_kept_twice_by_a_stage():
    selector = {"first": BY_ATTENTION, "samples": 1.0, "released": "fixed"}
    overrides = {"kept.selector": {"name": "with-samples", **selector}, "kept.n_anchors": 144}
    pipeline = load_pipeline("prumerge-plus-released", overrides)
    tokens = video_tokens(1, (24, 24), needs=pipeline.needs, dim=8)
    with pytest.raises(InputError, match="twice"):
        pipeline.run(tokens)


SWAPS = {
    "kept.selector": "random",
    "kept.coupler": {"name": "cosine", "temperature": 0.2},
    "kept.cost": ["spatial"],
    "kept.mass": "uniform",
    "kept.aggregator": "mean",
    "rest.selector": "uniform-grid",
    "rest.coupler": {"name": "sinkhorn", "epsilon": 0.1},
    "rest.aggregator": "keep-only",
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("part", sorted(SWAPS))
def test_any_part_can_be_another_methods(name, part):
    plain, tokens = on_video(name, {})
    before = plain.run(tokens)
    pipeline, _ = on_video(name, {part: SWAPS[part]})
    tokens = video_tokens(
        4, (27, 27), needs=plain.needs | pipeline.needs, dim=8, native_pool="bilinear", seed=3
    )
    reduced = pipeline.run(tokens)
    assert reduced.realised.n_tokens == before.realised.n_tokens == 80
    same = torch.allclose(reduced.features, before.features, atol=1e-4)
    assert not same or not torch.equal(reduced.token_index, before.token_index)


def test_the_selectors_serve_other_methods():
    for selector in ({"name": "with-samples", "first": "local-global"}, "with-samples"):
        overrides = {"stages.frame.selector": selector, "stages.frame.coupler": "neighbours"}
        pipeline = load_pipeline("downsample", overrides)
        tokens = video_tokens(4, (27, 27), needs=pipeline.needs, native_pool="bilinear")
        assert pipeline.run(tokens).realised.n_tokens == 80
