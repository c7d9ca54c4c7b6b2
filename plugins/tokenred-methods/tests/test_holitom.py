"""HoliTom: the programme finds the best windows, the presets keep to their budgets."""

from itertools import combinations

import pytest
import torch
from tokenred_methods.holitom.consecutive import ConsecutiveConfig, ConsecutiveRule
from tokenred_methods.holitom.static_windows import (
    StaticWindowsConfig,
    StaticWindowsSegmenter,
    static_windows,
)

from tokenred import ConfigError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks

PRESETS = ("holitom", "holitom-outer", "holitom-llava-video", "holitom-onevision-72b")
RELEASED = ("holitom-released", "holitom-outer-released")
OPTIMAL_TRANSPORT = {"name": "sinkhorn", "last": "source"}
SWAPS = {
    "selector": {"static.selector": "random", "dynamic.selector": "uniform-grid"},
    "coupler": {"static.coupler": OPTIMAL_TRANSPORT, "static.aggregator": "mass-normalised"},
    "dynamic coupler": {"dynamic.coupler": "nearest", "dynamic.aggregator": "mean"},
    "aggregator": {"static.aggregator": "keep-only", "repeats.aggregator": "keep-only"},
    "segmenter": {"windows.segmenter": "dynamic"},
    "fixed segmenter": {"windows.segmenter": {"name": "fixed-length", "segment_frames": 3}},
    "cost": {"static.cost": ["cosine"]},
}


def video(frames=32, side=27, pool="bilinear", seed=0):
    """Return scenes of four frames: the left of the picture stands still, the right is noise."""
    draw = torch.Generator().manual_seed(seed)
    n = side * side
    scenes = torch.randn(-(-frames // 4), n, 8, generator=draw).repeat_interleave(4, 0)[:frames]
    noise = torch.randn(frames, n, 8, generator=draw)
    still = (torch.arange(n) % side < side // 2)[:, None]
    video = torch.where(still, scenes + 0.05 * noise, noise)
    attention = torch.rand(frames, n, generator=draw)
    cues = {"attention@features": attention / attention.sum(-1, keepdim=True)}
    return VisualTokens.of(video, (side, side), cues=cues, native_pool=pool)


@parametrize_checks(StaticWindowsSegmenter(StaticWindowsConfig()))
def test_segmenter_contract(check):
    check()


@parametrize_checks(ConsecutiveRule(ConsecutiveConfig()))
def test_rule_contract(check):
    check()


def saving(similarity, bounds, tau):
    """Count the tokens that windows save, as their definition has it."""
    return sum(
        int((similarity[a : z - 1] > tau).all(0).sum()) * (z - 1 - a)
        for a, z in zip(bounds, bounds[1:])
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("longest", [1, 3, 100])
def test_no_windows_save_more(seed, longest):
    similarity = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed))
    segments, saved = static_windows(similarity, 0.4, longest)
    all_bounds = [(0, *cuts, 7) for count in range(7) for cuts in combinations(range(1, 7), count)]
    allowed = [b for b in all_bounds if max(z - a for a, z in zip(b, b[1:])) <= longest]
    assert segments.boundaries in allowed
    assert saved == saving(similarity, segments.boundaries, 0.4)
    assert saved == max(saving(similarity, bounds, 0.4) for bounds in allowed)


def test_of_equal_savings_the_shortest_window_wins():
    similarity = torch.tensor([[1.0], [0.0], [0.0]])  # a pair that repeats, then two that do not
    assert static_windows(similarity, 0.5, 1024)[0].boundaries == (0, 2, 3, 4)


def test_a_place_that_drifts_is_static_step_by_step():
    angle = torch.tensor([0.0, 0.5, 1.0, 1.5])  # cos 0.5 = 0.88, first and last at right angles
    drifting = torch.stack([angle.cos(), angle.sin()], -1)
    jumping = drifting * torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None]
    features = torch.stack([drifting, jumping], 1)
    assert ConsecutiveRule(ConsecutiveConfig(tau=0.8)).static(features).tolist() == [True, False]
    assert not ConsecutiveRule(ConsecutiveConfig(tau=0.9)).static(features).any()
    assert ConsecutiveRule(ConsecutiveConfig(tau=0.8)).static(features.half()).tolist() == [
        True,
        False,
    ]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize(("pool", "cells"), [("bilinear", 196), ("average", 169)])
def test_budgets_are_met_exactly(name, ratio, pool, cells):
    reduced = load_pipeline(name, {"budget.retention_ratio": ratio}).run(video(8, pool=pool))
    assert reduced.realised.n_tokens == 8 * -(-round(cells * ratio, 9) // 1)


def test_the_paper_layout_at_its_budgets():
    for ratio in (0.25, 0.20, 0.15, 0.10):
        reduced = load_pipeline("holitom", {"budget.retention_ratio": ratio}).run(video(32))
        assert reduced.realised.n_tokens == 32 * -(-round(196 * ratio, 9) // 1)


@pytest.mark.parametrize(
    ("ratio", "tau"), [(0.10, 0.65), (0.12, 0.65), (0.15, 0.8), (0.20, 0.8), (0.25, 0.8)]
)
def test_tau_belongs_to_the_ratio(ratio, tau):
    stages = load_pipeline("holitom", {"budget.retention_ratio": ratio}).config.stages
    assert stages["windows"].segmenter.tau == stages["repeats"].rule.tau == tau


def test_tau_can_be_set_all_the_same():
    overrides = {"budget.retention_ratio": 0.2, "windows.segmenter.tau": 0.5}
    stages = load_pipeline("holitom", overrides).config.stages
    assert (stages["windows"].segmenter.tau, stages["repeats"].rule.tau) == (0.5, 0.8)


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", PRESETS)
def test_any_part_can_be_swapped(name, swap):
    tokens = video(8, 12, "none")
    whole = load_pipeline(name, {"budget.retention_ratio": 0.2}).run(tokens)
    swapped = load_pipeline(name, {"budget.retention_ratio": 0.2, **SWAPS[swap]}).run(tokens)
    assert swapped.realised.n_tokens == whole.realised.n_tokens == 8 * 29
    assert not torch.equal(whole.features, swapped.features)


@pytest.mark.parametrize("name", [*PRESETS, *RELEASED])
@pytest.mark.parametrize("pool", ["none", "bilinear"])
def test_the_trace_explains_every_token(name, pool):
    tokens = video(8, 12, pool)
    reduced = load_pipeline(name, {"budget.retention_ratio": 0.2}).run(tokens, trace=True)
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", RELEASED)
def test_the_release_ends_slightly_above_its_ratio(name):
    tokens = video(32)
    for ratio in (0.25, 0.10, 0.01):
        reduced = load_pipeline(name, {"budget.retention_ratio": ratio}).run(tokens)
        over = reduced.realised.n_tokens - 32 * 196 * ratio
        assert 0 < over <= 32 + 8  # less than one a frame and half a one a window
    # each of the 32 frames keeps one moving token, the still parts round to nothing at all
    tiny = load_pipeline(name, {"budget.retention_ratio": 0.001}).run(tokens)
    assert tiny.realised.n_tokens == 32


def test_a_still_video_is_one_window_of_one_frame():
    still = torch.randn(1, 36, 8, generator=torch.Generator().manual_seed(0)).expand(8, -1, -1)
    tokens = VisualTokens.of(still, (6, 6), cues={"attention@features": torch.rand(8, 36)})
    reduced = load_pipeline("holitom-outer-released", {"budget.retention_ratio": 0.5}).run(tokens)
    assert reduced.realised.tokens_per_frame == (36, 0, 0, 0, 0, 0, 0, 0)
    torch.testing.assert_close(reduced.features, still[0])
    exact = load_pipeline("holitom-outer", {"budget.retention_ratio": 0.5}).run(tokens).realised
    assert exact.n_tokens == 8 * 18  # less is merged over time than could be
    assert any("stood still" in remark for stage in exact.stages for remark in stage.remarks)


def test_merged_tokens_stand_first_or_in_their_place():
    tokens = video(8, 12, "none")
    for name, sorted_inside in (("holitom", False), ("holitom-llava-video", True)):
        reduced = load_pipeline(name, {"budget.retention_ratio": 0.2}).run(tokens)
        assert (reduced.frame_index.diff() >= 0).all()
        places = reduced.frame_index * 144 + reduced.token_index
        assert bool((places.diff() > 0).all()) == sorted_inside


def test_half_precision_goes_through():
    tokens = video(8, 12, "none")
    half = VisualTokens.of(tokens.features.half(), (12, 12), cues=tokens.cues)
    reduced = load_pipeline("holitom-outer", {"budget.retention_ratio": 0.2}).run(half)
    assert reduced.features.dtype == torch.float16
    assert reduced.realised.n_tokens == 8 * 29


def test_there_is_no_contextual_branch():
    with pytest.raises(ConfigError, match="contextual_share"):
        load_pipeline("holitom-outer-released", {"dynamic.contextual_share": 0.4})


def test_the_inner_merge_is_what_the_core_has():
    inner = load_pipeline("holitom-inner").config.stages["merge"]
    assert load_pipeline("holitom").config.stages["merge"] == inner
    released = load_pipeline("holitom-released").config.stages["merge"].reducer
    assert (released.unmasked_before, released.newlines) == (True, "rank")
    deeper = load_pipeline("holitom-onevision-72b").config.stages["merge"].reducer
    assert deeper.schedule == {0.75: 0.5}
