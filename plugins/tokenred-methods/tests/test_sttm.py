import math

import pytest
import torch
from profiles import combinations
from tokenred_methods.sttm.over_time import first_ancestor, released_union
from tokenred_methods.sttm.pyramid import pyramid
from tokenred_methods.sttm.quadtree import QuadtreeConfig, QuadtreeGrouper

from tokenred import BudgetError, ConfigError, VisualTokens, calibrate, load_pipeline, registry
from tokenred.pipeline import load_config
from tokenred.testing import parametrize_checks, video_tokens

FIXED = {"budget": {"mode": "as-released", "retention_ratio": 0.1}}
LAYOUTS = [("bilinear", 32, 196), ("average", 4, 169)]
RATIOS = [0.25, 0.20, 0.15, 0.10]


def grouper(**settings):
    return QuadtreeGrouper(QuadtreeConfig(**settings))


@parametrize_checks(grouper(threshold=0.2))
def test_contract(check):
    check()


@parametrize_checks(grouper(threshold=0.2, weighted_avg=True, root_level=0))
def test_contract_of_token_averages(check):
    check()


@parametrize_checks(grouper(threshold=0.2, head_dim=3, released=True))
def test_contract_of_the_release(check):
    check()


def one_hot_frames(*pictures):
    """Return a video from pictures of digits: equal digits are equal tokens, others orthogonal."""
    rows = [[[int(digit) for digit in row] for row in picture.split()] for picture in pictures]
    label = torch.tensor(rows)
    features = torch.nn.functional.one_hot(label, 10).float().flatten(1, 2)
    return VisualTokens.of(features, tuple(label.shape[1:]))


def groups(tokens, **settings):
    """Return head -> places of each group."""
    found = grouper(**settings).group(tokens, generator=torch.Generator())
    weights = found.map.to_dense()
    return {int(head): row.nonzero()[:, 0].tolist() for head, row in zip(found.head, weights)}


def test_a_cell_of_equal_tokens_stays_whole_and_another_is_divided():
    tokens = one_hot_frames("1122 1122 3345 3367")
    found = groups(tokens, root_level=0, temporal_threshold=None)
    assert found == {
        0: [0, 1, 4, 5],
        2: [2, 3, 6, 7],
        8: [8, 9, 12, 13],
        10: [10],
        11: [11],
        14: [14],
        15: [15],
    }


def test_trees_begin_where_they_are_told():
    tokens = one_hot_frames("11111111 " * 8)
    sizes = {
        level: len(groups(tokens, root_level=level, temporal_threshold=None))
        for level in (-1, 0, 1, 2, 5)
    }
    assert sizes == {-1: 64, 0: 4, 1: 16, 2: 64, 5: 64}


def test_a_quarter_must_be_as_similar_as_the_threshold():
    """The mean of three equal tokens and another has cosine 3/sqrt(10) and 1/sqrt(10) with them."""
    tokens = one_hot_frames("1111 1211 1111 1111")
    settings = {"root_level": 0, "temporal_threshold": None}
    assert len(groups(tokens, **settings, threshold=0.31)) == 4
    assert len(groups(tokens, **settings, threshold=0.32)) == 7


def test_odd_sides_keep_their_first_row_and_column_unpaired():
    tokens = one_hot_frames("11111 11111 11111")
    levels = pyramid(tokens.features, tokens.keep, tokens.grid, by_tokens=False)
    assert [level.grid for level in levels] == [(1, 2), (2, 3), (3, 5)]
    assert levels[1].cell.view(3, 5).tolist() == [[0, 1, 1, 2, 2], [3, 4, 4, 5, 5], [3, 4, 4, 5, 5]]
    assert levels[1].children.tolist()[:2] == [[-1, -1, -1, 0], [-1, -1, 1, 2]]


def test_missing_quarters_stand_for_the_first_cell_in_the_release_only():
    tokens = one_hot_frames("211 111 111")
    settings = {"root_level": 0, "temporal_threshold": None}
    assert groups(tokens, **settings) == {0: [0], 1: [1, 2], 3: [3, 6], 4: [4, 5, 7, 8]}
    released = groups(tokens, **settings, released=True)
    assert released == {0: [0], 1: [1], 2: [2], 3: [3], 4: [4, 5, 7, 8], 6: [6]}


def test_what_does_not_move_is_merged_into_the_first_frame():
    still, cut = "1123 1145 6788 9988", "5566 5566 1122 1122"
    tokens = one_hot_frames(still, still, still, cut, cut)
    found = groups(tokens, root_level=0)
    alone = groups(one_hot_frames(still), root_level=0)
    assert list(found) == [*alone, 48, 50, 56, 58]
    for head, places in alone.items():
        assert found[head] == [place + 16 * frame for frame in range(3) for place in places]
    assert found[48] == [48, 49, 52, 53, 64, 65, 68, 69]


def test_a_leaf_joins_the_first_that_it_overlaps_and_brings_no_other():
    """Whole, then divided: all quarters join it. Divided, then whole: it joins the first."""
    whole, divided = "1111 1111 1111 1111", "1112 1111 1111 1111"
    apart = groups(one_hot_frames(divided, whole), root_level=0, threshold=0.9)
    assert apart[2] == [2, 18, 19, 22, 23]
    assert (apart[3], apart[6], apart[7]) == ([3], [6], [7])
    grown = groups(one_hot_frames(whole, divided), root_level=0, threshold=0.9)
    assert grown[2] == [2, 3, 6, 7, 18, 22, 23]
    assert grown[19] == [19]


def test_long_chains_draw_in_others_in_the_release_only():
    short = torch.tensor([[0, 1], [2, 2]])
    for union in (first_ancestor, released_union):
        assert union(3, short).tolist() == [0, 1, 0]
    long = torch.tensor([[0, 1, 2, 3, 4], [2, 2, 3, 4, 5]])
    assert first_ancestor(6, long).tolist() == [0, 1, 0, 0, 0, 0]
    assert released_union(6, long).tolist() == [0, 0, 0, 0, 0, 0]


def test_one_knob_can_move_both_thresholds():
    """Two frames at 60 degrees, cosine 0.5: united if the threshold is 0.7 at most, 0.2 more."""
    angle = torch.tensor([0.0, math.pi / 3])
    frames = torch.stack([angle.cos(), angle.sin()], -1)[:, None].expand(2, 4, 2)
    tokens = VisualTokens.of(frames, (2, 2))
    settings = {"temporal_threshold": -0.2, "temporal_relative": True, "root_level": -1}
    assert len(groups(tokens, **settings, threshold=0.69)) == 4
    assert len(groups(tokens, **settings, threshold=0.71)) == 8


def test_a_still_video_can_keep_any_share():
    still = video_tokens(1, (6, 6), dim=8).features.expand(8, 36, 8)
    tokens = VisualTokens.of(still + 0.01 * video_tokens(8, (6, 6), dim=8, seed=5).features, (6, 6))
    for ratio in (0.25, 0.5, 0.9):
        found = calibrate(load_config("sttm", {"budget.retention_ratio": ratio}), [tokens])
        reached = load_pipeline(found).run(tokens).realised.retention_ratio
        assert reached == pytest.approx(ratio, abs=0.05)


def test_a_group_is_a_mean_of_cells_or_of_tokens():
    tokens = one_hot_frames("1111 1111 1111 1111", "1112 1111 1111 1111")
    settings = {"root_level": 0, "threshold": 0.9}
    by_cell = grouper(**settings).group(tokens, generator=torch.Generator()).map.to_dense()[1]
    assert by_cell[[2, 3, 6, 7]].tolist() == [0.0625] * 4
    assert by_cell[[18, 22, 23]].tolist() == [0.25] * 3
    settings["weighted_avg"] = True
    by_token = grouper(**settings).group(tokens, generator=torch.Generator()).map.to_dense()[1]
    assert by_token[by_token > 0].tolist() == pytest.approx([1 / 7] * 7)


def test_cells_of_unequal_size_weigh_the_same_unless_tokens_are_counted():
    ones, keep = torch.ones(1, 15, 1), torch.ones(1, 15, dtype=torch.bool)
    levels = pyramid(ones, keep, (5, 3), by_tokens=False)
    assert [level.grid for level in levels] == [(2, 1), (3, 2), (5, 3)]
    first, second = [0.5, 0.25, 0.25], [0.125, 0.0625, 0.0625]
    assert levels[0].share[0].view(5, 3).tolist() == [first, *[second] * 4]
    even = pyramid(ones, keep, (5, 3), by_tokens=True)
    assert even[0].share[0].tolist() == pytest.approx([1 / 3] * 3 + [1 / 12] * 12)


def test_heads_are_compared_one_by_one():
    """Two heads that agree in scale and disagree in sign have cosine 0, in one piece 0.98."""
    features = torch.tensor([10.0, 0, 1, 0]).repeat(1, 16, 1)
    features[0, ::5, 2] = -1
    tokens = VisualTokens.of(features, (4, 4))
    settings = {"root_level": 0, "threshold": 0.9, "temporal_threshold": None}
    assert len(groups(tokens, **settings)) == 4
    assert len(groups(tokens, **settings, head_dim=2)) > 4
    with pytest.raises(ConfigError, match="head_dim: 4 is no multiple of 3"):
        groups(tokens, head_dim=3)


def test_the_first_live_token_of_a_leaf_stands_for_it():
    tokens = one_hot_frames("1122 1122 4455 4455")
    tokens.keep[0, [0, 1]] = False
    assert list(groups(tokens, root_level=0)) == [2, 4, 8, 10]


def test_dropped_tokens_are_as_if_they_were_not_there():
    tokens = one_hot_frames("1122 1322 4455 4455")
    tokens.keep[0, [0, 5]] = False
    found = groups(tokens, root_level=0, temporal_threshold=None)
    assert list(found) == [1, 2, 8, 10]
    assert found == {
        1: [1, 4],
        2: [2, 3, 6, 7],
        8: [8, 9, 12, 13],
        10: [10, 11, 14, 15],
    }


@pytest.mark.parametrize(("ratio", "layout"), combinations(RATIOS, LAYOUTS))
def test_the_threshold_is_calibrated_to_the_budget(ratio, layout):
    pool, frames, _ = layout
    video = {"grid": (27, 27), "dim": 8, "native_pool": pool, "similar": 0.6}
    frames = min(frames, 8)
    held_out = [video_tokens(frames, **video, seed=seed) for seed in (1, 2)]
    found = calibrate(load_config("sttm", {"budget.retention_ratio": ratio}), held_out, n_steps=12)
    reached = [load_pipeline(found).run(tokens).realised.retention_ratio for tokens in held_out]
    assert sum(reached) / 2 == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize(("ratio", "layout"), combinations(RATIOS, LAYOUTS))
def test_a_frame_stage_behind_it_meets_the_budget_exactly(ratio, layout):
    pool, frames, cells = layout
    tokens = video_tokens(frames, (27, 27), dim=8, native_pool=pool, similar=0.5)
    pipeline = exactly(ratio, "sttm", {"name": "quadtree", "threshold": 0.6})
    reduced = pipeline.run(tokens)
    assert reduced.realised.stages[1].n_tokens > reduced.realised.n_tokens
    assert reduced.realised.n_tokens == frames * math.ceil(round(cells * ratio, 9))


def exactly(ratio, preset, grouping, **rest):
    budget = {"mode": "exact", "retention_ratio": ratio}
    frame = {
        "kind": "frame",
        "n_anchors": "budget",
        "selector": "random",
        "coupler": "nearest",
        "aggregator": "mean",
        **rest,
    }
    changes = {"budget": budget, "stages.group.grouper": grouping, "stages.rest": frame}
    return load_pipeline(preset, changes)


def test_on_its_own_it_says_why_there_is_no_exact_budget():
    with pytest.raises(ConfigError, match=r"stages.group: .*budget.mode: calibrated"):
        load_pipeline("sttm", {"budget": {"mode": "exact", "retention_ratio": 0.2}})
    tokens = [video_tokens(8, (27, 27), dim=8, native_pool="bilinear")]
    with pytest.raises(BudgetError, match=r"nearest retention_ratio 0\.0102"):
        calibrate(load_config("sttm", {"budget.retention_ratio": 0.005}), tokens)


SWAPS = {
    "aggregator": {"aggregator": "keep-only"},
    "coupler": {"coupler": "sinkhorn", "aggregator": "mass-normalised"},
    "selector": {"selector": "uniform-grid"},
}


@pytest.mark.parametrize("swap", SWAPS)
def test_any_part_behind_it_can_be_swapped(swap):
    tokens = video_tokens(6, (8, 8), dim=8, similar=0.5)
    grouping = {"name": "quadtree", "threshold": 0.6}
    plain = exactly(0.2, "sttm", grouping).run(tokens)
    other = exactly(0.2, "sttm", grouping, **SWAPS[swap]).run(tokens)
    assert plain.realised.n_tokens == other.realised.n_tokens == 6 * 13
    assert not torch.equal(plain.features, other.features)


@pytest.mark.parametrize("name", registry().names("token grouper"))
def test_any_grouper_can_take_its_place(name):
    tokens = video_tokens(6, (8, 8), dim=8, similar=0.5)
    reduced = exactly(0.2, "sttm", name).run(tokens)
    assert reduced.realised.n_tokens == 6 * 13


def test_heads_alone_are_kept_as_they_are():
    tokens = video_tokens(6, (8, 8), dim=8, similar=0.9)
    merged = load_pipeline("sttm", FIXED).run(tokens)
    heads = load_pipeline("sttm", {**FIXED, "stages.group.merge": "head"}).run(tokens)
    assert torch.equal(merged.frame_index, heads.frame_index)
    assert torch.equal(heads.features, tokens.features[heads.frame_index, heads.token_index])
    assert not torch.equal(merged.features, heads.features)


@pytest.mark.parametrize("name", ["sttm", "sttm-released"])
@pytest.mark.parametrize("pool", ["none", "bilinear"])
def test_the_trace_explains_every_token(name, pool):
    tokens = video_tokens(6, (13, 13), dim=8, native_pool=pool, similar=0.8)
    settings = {**FIXED, "stages.group.grouper.threshold": 0.7}
    reduced = load_pipeline(name, settings).run(tokens, trace=True)
    cells = 169 if pool == "none" else 49
    assert 6 < reduced.realised.n_tokens < 6 * cells
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(reduced.mass.sum(), torch.tensor(6.0 * cells))
