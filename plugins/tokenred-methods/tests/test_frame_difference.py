import pytest
import torch
from tokenred_methods.frame_difference.pixel_difference import (
    PixelDifferenceConfig,
    PixelDifferenceCost,
)

from tokenred import VisualTokens, load_pipeline
from tokenred.errors import BudgetError, CapabilityError, ConfigError
from tokenred.pipeline import calibrate
from tokenred.testing import parametrize_checks, video_tokens
from tokenred.types import TokenGroup

EXACT = ("dtd", "dtd-pixels", "evs")
ALL = (*EXACT, "dtd-calibrated", "dtd-released", "evs-released")
BILINEAR, AVERAGE = ("bilinear", 196), ("average", 169)
CUES = {"pixels": 12}


@parametrize_checks(PixelDifferenceCost(PixelDifferenceConfig()), cues=CUES)
def test_contract(check):
    check()


def video(pipeline, frames=32, pool="bilinear", **changes):
    needs = pipeline.needs
    return video_tokens(
        frames, (27, 27), needs=needs, dim=8, native_pool=pool, cues=CUES, **changes
    )


def loaded(preset, ratio, **changes):
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return load_pipeline(preset, {"budget.retention_ratio": ratio, **overrides})


# --- pixels --------------------------------------------------------------------------------------


def group(**cues):
    n = next(iter(cues.values())).shape[-2]
    named = {
        name.replace("first", "pixels@0").replace("last", "pixels@-1"): value
        for name, value in cues.items()
    }
    return TokenGroup(torch.zeros(n, 3), torch.zeros(n, 2), torch.zeros(n), cues=named)


def test_neighbours_in_time_are_compared():
    sources = group(first=torch.tensor([[0.0, 1.0]]), last=torch.tensor([[9.0, 9.0]]))
    anchors = group(first=torch.tensor([[8.0, 8.0]]), last=torch.tensor([[0.5, 0.75]]))
    sane = PixelDifferenceCost(PixelDifferenceConfig())
    released = PixelDifferenceCost(PixelDifferenceConfig(frame=-1, reference_frame=0))
    assert sane.cost(sources, anchors).tolist() == [[0.375]]
    assert released.cost(sources, anchors).tolist() == [[1.0]]
    assert sane.needs == released.needs == {"pixels@0", "pixels@-1"}


def test_half_precision_is_compared_in_float32():
    pixels = torch.rand(4, 12).half()
    both = group(first=pixels, last=pixels.flip(0))
    cost = PixelDifferenceCost(PixelDifferenceConfig()).cost(both, both)
    assert cost.dtype == torch.float32
    expected = (pixels.float()[:, None] - pixels.flip(0).float()).abs().mean(-1)
    assert torch.allclose(cost, expected, atol=1e-6)


def test_without_pixels_it_says_so():
    with pytest.raises(CapabilityError, match="cues that are missing: pixels@-1, pixels@0"):
        load_pipeline("dtd-pixels").run(video_tokens(4))


# --- what is kept --------------------------------------------------------------------------------


def scene(changes, frames=4):
    """A still film, but for some places that turn in some frames and stay as they are then."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 6, generator=generator).repeat(frames, 1, 1)
    for frame, place in changes:
        features[frame:, place] = -features[frame:, place]
    return VisualTokens.of(features, (3, 3))


def places(reduced):
    later = reduced.frame_index > 0
    return sorted(
        zip(reduced.frame_index[later].tolist(), reduced.token_index[later].tolist(), strict=True)
    )


def test_one_ranking_finds_the_changes_wherever_they_are():
    changes = [(1, 0), (1, 2), (1, 4), (1, 5), (2, 3), (3, 7), (3, 8)]
    assert places(loaded("evs", 4 / 9).run(scene(changes))) == changes


def test_every_frame_gives_equally_many():
    changes = [(1, 0), (1, 2), (1, 4), (1, 5), (2, 3), (3, 7), (3, 8)]
    reduced = loaded("dtd", 4 / 9).run(scene(changes))
    assert reduced.realised.tokens_per_frame == (9, 3, 2, 2)
    found = set(places(reduced))
    assert {each for each in found if each[0] == 1} < set(changes[:4])
    assert {(2, 3), (3, 7), (3, 8)} < found


def test_a_threshold_keeps_what_changed_and_nothing_else():
    changes = [(1, 0), (3, 7), (3, 8)]
    reduced = load_pipeline("dtd-released").run(scene(changes))
    assert places(reduced) == changes
    still = load_pipeline("dtd-released").run(scene([]))
    assert still.realised.tokens_per_frame == (9, 0, 0, 0)


def test_a_difference_of_just_the_threshold_stays():
    released = {"name": "threshold", "tau": 0.0, "inclusive": True}
    pixels = {"pixels@0": torch.zeros(2, 9, 3), "pixels@-1": torch.zeros(2, 9, 3)}
    tokens = VisualTokens.of(scene([], 2).features, (3, 3), cues=pixels)
    cost = ["pixel-difference", "aligned"]
    changes = {"drop.cost": cost, "drop.keep.decide": released}
    assert load_pipeline("dtd-released", changes).run(tokens).realised.n_tokens == 18
    changes["drop.keep.decide"] = {**released, "inclusive": False}
    assert load_pipeline("dtd-released", changes).run(tokens).realised.n_tokens == 9


def test_what_was_dropped_is_still_compared_with():
    """A token that stands still for long goes in every frame, not in every second one."""
    reduced = loaded("evs", 1 / 6, budget__mode="as-released").run(scene([], 6))
    assert reduced.realised.tokens_per_frame == (9, 0, 0, 0, 0, 0)


def test_pixels_decide_where_features_do_not():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(9, 12, generator=generator).repeat(3, 1, 1)
    pixels[2, 4] += 0.5
    cues = {"pixels@0": pixels, "pixels@-1": pixels}
    tokens = VisualTokens.of(scene([(1, 0)], 3).features, (3, 3), cues=cues)
    reduced = loaded("dtd-pixels", 4 / 9).run(tokens)
    assert (2, 4) in places(reduced)
    assert places(loaded("evs", 4 / 9).run(tokens))[0] == (1, 0)


# --- budgets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "cells"), [BILINEAR, AVERAGE])
@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize("preset", EXACT)
def test_exact_budgets(preset, ratio, pool, cells):
    pipeline = loaded(preset, ratio)
    reduced = pipeline.run(video(pipeline, pool=pool))
    assert reduced.realised.n_tokens == -int(-cells * ratio // 1) * 32
    assert reduced.realised.tokens_per_frame[0] == cells


@pytest.mark.parametrize(("pool", "cells"), [BILINEAR, AVERAGE])
@pytest.mark.parametrize("preset", EXACT)
def test_the_first_frame_is_the_floor(preset, pool, cells):
    pipeline = loaded(preset, 0.20)
    least = rf"at least {cells} tokens are possible here; nearest retention_ratio 0\.25"
    with pytest.raises(BudgetError, match=least):
        pipeline.run(video(pipeline, 4, pool))
    enough = loaded(preset, 0.25).run(video(pipeline, 4, pool))
    assert enough.realised.n_tokens == -(-cells // 4) * 4


@pytest.mark.parametrize(
    ("ratio", "n_tokens"), [(0.5, 686), (0.35, 480), (0.1, 196), (1.0, 196 * 7)]
)
def test_evs_as_released_rounds_the_video_down(ratio, n_tokens):
    pipeline = load_pipeline("evs-released", {"budget.retention_ratio": ratio})
    assert pipeline.run(video(pipeline, 7)).realised.n_tokens == n_tokens


def test_one_threshold_for_all_videos():
    config = load_pipeline("dtd-calibrated", {"budget.retention_ratio": 0.25}).config
    videos = [video(load_pipeline(config), 8, seed=seed, similar=seed / 4) for seed in (1, 2, 3)]
    solved = load_pipeline(calibrate(config, videos))
    kept = [solved.run(each).realised.retention_ratio for each in videos]
    assert sum(kept) / 3 == pytest.approx(0.25, abs=0.01)
    assert max(kept) > 1.2 * min(kept)


def test_thresholds_have_no_exact_budget():
    with pytest.raises(ConfigError, match=r"exact budget needs keep\.decide: count"):
        load_pipeline("dtd-released", {"budget.mode": "exact"})


def test_at_an_exact_budget_one_threshold_a_video_is_evs():
    dtd, evs = load_pipeline("dtd", {"drop.scope": "video"}), load_pipeline("evs")
    assert dtd.config.config_id == evs.config.config_id
    assert load_pipeline("dtd").config.config_id != evs.config.config_id


@pytest.mark.parametrize("preset", ALL)
def test_one_frame(preset):
    pipeline = (
        loaded(preset, 1.0, budget__mode="as-released", budget__knob=None, budget__knob_range=None)
        if preset == "dtd-calibrated"
        else loaded(preset, 1.0)
    )
    reduced = pipeline.run(video(pipeline, 1))
    assert reduced.realised.n_tokens == 196


# --- parts are exchanged -------------------------------------------------------------------------

SWAPS = {
    "coupler": {"drop.cost": ["cosine"], "drop.coupler": "sinkhorn"},
    "aggregator": {"drop.aggregator": "mean"},
    "reference": {"drop.reference": "first"},
    "score": {
        "drop.cost": ["cosine"],
        "drop.coupler": "sinkhorn",
        "drop.keep.score": "max-probability",
    },
    "cost": {"drop.cost": ["euclidean"]},
    "places": {"drop.cost": ["cosine"]},
}


@pytest.mark.parametrize("preset", EXACT)
@pytest.mark.parametrize("swap", SWAPS)
def test_a_part_for_anothers(preset, swap):
    tokens = video(load_pipeline("dtd-pixels"), 8)
    plain = loaded(preset, 0.25).run(tokens)
    swapped = load_pipeline(preset, {"budget.retention_ratio": 0.25, **SWAPS[swap]}).run(tokens)
    assert swapped.realised.n_tokens == plain.realised.n_tokens == 49 * 8
    same = torch.equal(plain.token_index, swapped.token_index)
    assert not (same and torch.equal(plain.features, swapped.features))


@pytest.mark.parametrize("segmenter", ["fixed-length", {"name": "dynamic", "min_segments": 2}])
@pytest.mark.parametrize("preset", EXACT)
def test_a_cut_in_front(preset, segmenter):
    data = load_pipeline(preset).config.to_dict()
    cut = {"kind": "cut", "segmenter": segmenter}
    pool, drop = data["stages"]["pool"], data["stages"]["drop"]
    data["stages"] = {"pool": pool, "cut": cut, "drop": drop}
    pipeline = load_pipeline(data, {"budget.retention_ratio": 0.3})
    reduced = pipeline.run(video(pipeline, 8))
    assert reduced.realised.n_tokens == 59 * 8
    assert sum(n == 196 for n in reduced.realised.tokens_per_frame) == 2


@pytest.mark.parametrize("aggregator", ["keep-only", "mean"])
@pytest.mark.parametrize("preset", ["dtd", "dtd-pixels", "dtd-released", "evs", "evs-released"])
def test_the_trace_is_the_map(preset, aggregator):
    pipeline = load_pipeline(
        preset, {"drop.aggregator": aggregator, "budget.retention_ratio": 0.25}
    )
    tokens = video(pipeline, 8)
    reduced = pipeline.run(tokens, trace=True)
    mapped = reduced.trace @ tokens.features.flatten(0, 1)
    assert torch.allclose(mapped, reduced.features, atol=1e-5)
