"""PruneVid: runs of clusters are segments, the presets keep to their budgets."""

import pytest
import torch
from tokenred_methods.prunevid.frame_clusters import FrameClustersConfig, FrameClustersSegmenter
from tokenred_methods.prunevid.pairwise import PairwiseConfig, PairwiseRule
from tokenred_methods.prunevid.runs import refine_runs

from tokenred import InputError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks

PRESETS = ("prunevid", "prunevid-merge", "prunevid-llava-video")
RELEASED = ("prunevid-released", "prunevid-merge-released")
OPTIMAL_TRANSPORT = {"name": "sinkhorn", "last": "source"}
SWAPS = {
    "selector": {"static.selector": "random", "dynamic.selector": "uniform-grid"},
    "coupler": {"dynamic.coupler": OPTIMAL_TRANSPORT, "dynamic.aggregator": "mass-normalised"},
    "aggregator": {"static.aggregator": "centre-weighted", "dynamic.aggregator": "keep-only"},
    "merge over time": {"still.aggregator": "keep-only"},
    "segmenter": {"segments.segmenter": "dynamic"},
    "fixed segmenter": {"segments.segmenter": {"name": "fixed-length", "segment_frames": 3}},
    "cost": {"dynamic.cost": ["cosine"]},
}


def video(frames=16, side=27, pool="bilinear", seed=0):
    """Return scenes of eight frames: the left of the picture stands still, the right is noise."""
    draw = torch.Generator().manual_seed(seed)
    n = side * side
    scenes = torch.randn(-(-frames // 8), n, 8, generator=draw).repeat_interleave(8, 0)[:frames]
    noise = torch.randn(frames, n, 8, generator=draw)
    still = (torch.arange(n) % side < side // 2)[:, None]
    video = torch.where(still, scenes + 0.05 * noise, noise)
    return VisualTokens.of(video, (side, side), native_pool=pool)


@parametrize_checks(FrameClustersSegmenter(FrameClustersConfig()))
def test_segmenter_contract(check):
    check()


@parametrize_checks(PairwiseRule(PairwiseConfig()))
def test_rule_contract(check):
    check()


@pytest.mark.parametrize(
    ("labels", "refined"),
    [
        ("aaabaaa", "aaaaaaa"),  # the stray frame joins, both long runs of a stay
        ("aabbbab", "aabbbbb"),  # a's single frame and b's short run join the longer neighbour
        ("aacbb", "aaabb"),  # of equal neighbours the left one wins
        ("aacbbb", "aabbbb"),
        ("aacdbbb", "aabbbbb"),
        ("aaxbbyccc", "aaabbcccc"),
        ("aaxbbbyzccc", "aabbbbbbccc"),  # x has joined: four of b against three of c
        ("xaab", "aaaa"),
        ("aabaab", "aaaaaa"),
    ],
)
def test_stray_frames_join_the_longer_neighbour(labels, refined):
    found = refine_runs([ord(label) for label in labels])
    assert "".join(map(chr, found)) == refined


def test_without_any_run_all_frames_are_one():
    assert refine_runs([3, 1, 2, 3, 2]) == [0, 0, 0, 0, 0]


def test_scenes_become_segments():
    draw = torch.Generator().manual_seed(1)
    scenes = 5 * torch.eye(4).repeat_interleave(4, 0)
    frames = scenes + 0.01 * torch.randn(16, 4, generator=draw)
    segmenter = FrameClustersSegmenter(FrameClustersConfig(neighbours=4))
    assert segmenter.segment(frames).boundaries == (0, 4, 8, 12, 16)


@pytest.mark.parametrize("frames", [1, 3, 6])
def test_short_videos_are_clamped_unless_released(frames):
    descriptors = torch.randn(frames, 5, generator=torch.Generator().manual_seed(0))
    sane = FrameClustersSegmenter(FrameClustersConfig())
    assert sane.segment(descriptors).boundaries[-1] == frames
    with pytest.raises(InputError, match=f"{frames} frames are too few"):
        FrameClustersSegmenter(FrameClustersConfig(released=True)).segment(descriptors)
    tokens = VisualTokens.of(torch.randn(frames, 16, 8), (4, 4))
    with pytest.raises(InputError, match="too few"):
        load_pipeline("prunevid-merge-released").run(tokens)
    assert load_pipeline("prunevid-merge", {"budget.retention_ratio": 0.5}).run(tokens)


def test_a_place_is_static_on_average():
    angle = torch.tensor([0.0, 0.5, 1.0, 1.5])  # ordered pairs: mean cosine 0.59
    drifting = torch.stack([angle.cos(), angle.sin()], -1)
    still = drifting[:1].expand(4, 2)
    features = 3 * torch.stack([drifting, still], 1)
    cosine = drifting @ drifting.T
    mean = float(cosine.fill_diagonal_(0).sum()) / 12
    for tau in (mean - 1e-3, mean + 1e-3):
        found = PairwiseRule(PairwiseConfig(tau=tau)).static(features).tolist()
        assert found == [tau < mean, True]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize(("pool", "cells"), [("bilinear", 196), ("average", 169)])
def test_budgets_are_met_exactly(name, ratio, pool, cells):
    reduced = load_pipeline(name, {"budget.retention_ratio": ratio}).run(video(8, pool=pool))
    assert reduced.realised.n_tokens == 8 * -(-round(cells * ratio, 9) // 1)


def test_the_layout_of_the_tables_at_its_budgets():
    for ratio in (0.25, 0.20, 0.15, 0.10):
        reduced = load_pipeline("prunevid", {"budget.retention_ratio": ratio}).run(video(32))
        assert reduced.realised.n_tokens == 32 * -(-round(196 * ratio, 9) // 1)


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
    reduced = load_pipeline(name).run(tokens, trace=True)
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )


def test_the_release_halves_what_it_does_not_spare():
    draw = torch.Generator().manual_seed(0)
    moving = torch.randn(8, 25, 8, generator=draw)
    kept = load_pipeline("prunevid-merge-released").run(VisualTokens.of(moving, (5, 5))).realised
    assert kept.tokens_per_frame == (12,) * 8  # 25 moving tokens a frame, half of them rounded down
    few = VisualTokens.of(moving[:, :14], (2, 7))
    reduced = load_pipeline("prunevid-merge-released", {"still.rule.tau": 1.0}).run(few)
    assert torch.equal(reduced.features, few.features.flatten(0, 1))


def test_still_tokens_stand_before_moving_ones_in_the_order_of_the_clusters():
    tokens = video(8, 12, "none")
    orders = {}
    for name in ("prunevid-merge", "prunevid-llava-video"):
        reduced = load_pipeline(name, {"budget.retention_ratio": 0.2}).run(tokens)
        assert (reduced.frame_index.diff() >= 0).all()
        orders[name] = reduced.frame_index * 144 + reduced.token_index
    by_cluster, by_place = orders.values()
    assert (by_place.diff() > 0).all()
    assert not torch.equal(by_cluster, by_place)
    assert torch.equal(by_cluster.sort().values, by_place)
    first = by_cluster[by_cluster < 144]
    still = (first % 12 < 6).int()
    assert still.diff().max() <= 0 < still.sum() < len(first)


def test_groups_have_their_own_quota_inside_the_llm():
    reduced = load_pipeline("prunevid", {"budget.retention_ratio": 0.2}).run(video(8, 12, "none"))
    still = reduced.token_index % 12 < 6
    cells = {(int(t), bool(s)) for t, s in zip(reduced.frame_index, still)}
    assert len(cells) > 8
    assert len(cells) == len(reduced.group.unique())
    for label in reduced.group.unique():
        inside = reduced.group == label
        assert len(reduced.frame_index[inside].unique()) == len(still[inside].unique()) == 1


def test_half_precision_goes_through():
    tokens = video(8, 12, "none")
    half = VisualTokens.of(tokens.features.half(), (12, 12))
    reduced = load_pipeline("prunevid-merge", {"budget.retention_ratio": 0.2}).run(half)
    assert reduced.features.dtype == torch.float16
    assert reduced.realised.n_tokens == 8 * 29


def test_the_stage_inside_the_llm_is_what_the_core_has():
    inside = load_pipeline("prunevid-llm").config.stages["prune"]
    for name in ("prunevid", "prunevid-released"):
        assert load_pipeline(name).config.stages["prune"] == inside


def test_a_video_that_stands_still_meets_its_budget_too():
    still = torch.randn(1, 36, 8, generator=torch.Generator().manual_seed(0)).expand(8, -1, -1)
    tokens = VisualTokens.of(still, (6, 6))
    released = load_pipeline("prunevid-merge-released").run(tokens).realised
    assert released.tokens_per_frame[0] == released.n_tokens == 18
    exact = load_pipeline("prunevid-merge", {"budget.retention_ratio": 0.25}).run(tokens).realised
    assert exact.n_tokens == 8 * 9
