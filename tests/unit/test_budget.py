"""Budgets: counting, sharing, anchors, and what cannot be had."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenred import BudgetError, ConfigError, InputError, Pipeline, VisualTokens, load_pipeline
from tokenred.interfaces import BudgetAllocator
from tokenred.pipeline.budget import (
    apportion,
    frame_quota,
    resolve_anchors,
    shares,
    trim,
    unreachable,
)
from tokenred.slots import build, strategy_config
from tokenred.strategies.selectors.uniform_grid import spread
from tokenred.types import Segments

PAPER = {0.10: 126 / 729, 0.15: 144 / 729, 0.20: 196 / 729, 0.25: 205 / 729}


@pytest.mark.parametrize(
    ("cells", "ratio", "quota"),
    [
        (196, 0.10, 20),
        (196, 0.15, 30),
        (196, 0.20, 40),
        (196, 0.25, 49),
        (196, 1.0, 196),
        (169, 0.1, 17),
        (100, 0.1, 10),
        (100, 0.07, 7),  # 0.07 * 100 is 7.000000000000001
        (3, 1e-12, 1),
        (1, 0.5, 1),
    ],
)
def test_quota_is_rounded_up(cells: int, ratio: float, quota: int) -> None:
    assert frame_quota(cells, ratio) == quota


@given(st.integers(0, 300), st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_shares_are_proportional_and_complete(total: int, weights: list[int]) -> None:
    parts = shares(total, weights)
    assert sum(parts) == min(total, sum(weights))
    assert all(0 <= part <= weight for part, weight in zip(parts, weights))
    if sum(weights):
        for part, weight in zip(parts, weights):
            assert abs(part - min(total, sum(weights)) * weight / sum(weights)) < 1


def test_shares_break_ties_towards_the_first() -> None:
    assert shares(4, [5, 5, 5]) == [2, 1, 1]
    assert shares(0, [3, 1]) == [0, 0]
    assert shares(7, [0, 0]) == [0, 0]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 2)), min_size=1), st.data())
def test_trimming_uses_what_there_is(segments: list[tuple[int, int]], data: st.DataObject) -> None:
    counts, copies = zip(*segments, strict=True)
    used = sum(count * n for count, n in segments)
    total = data.draw(st.integers(sum(copies), used))
    trimmed = trim(counts, copies, total)
    assert all(1 <= kept <= count for kept, count in zip(trimmed, counts, strict=True))
    left = total - sum(kept * n for kept, n in zip(trimmed, copies, strict=True))
    grow = [n for kept, (count, n) in zip(trimmed, segments, strict=True) if kept < count]
    assert left == 0 or (left == 1 and set(grow) == {2})


def test_trimming_is_proportional() -> None:
    assert trim([11, 21, 1], [1, 1, 1], 18) == [6, 11, 1]
    assert trim([9, 9], [2, 1], 14) == [4, 6]
    assert trim([9, 9], [2, 2], 15) == [4, 3]


@pytest.mark.parametrize(
    ("spec", "tokens", "ratio", "wanted"),
    [
        ("budget", 196, 0.1, 20),
        (126, 729, 0.1, 126),
        (126, 100, 0.1, 100),
        (126 / 729, 729, 0.9, 126),
        (126 / 729, 169, 0.9, 29),
        (0.0001, 9, 0.9, 1),
        (1.0, 9, 0.1, 9),
        (PAPER, 729, 0.10, 126),
        (PAPER, 729, 0.15, 144),
        (PAPER, 729, 0.20, 196),
        (PAPER, 729, 0.25, 205),
        (PAPER, 729, 0.175, 170),
        (PAPER, 729, 0.05, 63),
        (PAPER, 729, 0.5, 410),
        (PAPER, 729, 1.0, 729),
        (PAPER, 169, 0.10, 29),
    ],
)
def test_anchors_of_a_frame(spec: object, tokens: int, ratio: float, wanted: int) -> None:
    assert resolve_anchors(spec, tokens, ratio) == wanted


def test_more_budget_never_means_fewer_anchors() -> None:
    counts = [resolve_anchors(PAPER, 729, step / 200) for step in range(1, 201)]
    assert counts == sorted(counts)


@given(st.integers(1, 40), st.integers(2, 400), st.data())
def test_the_nearest_ratio_can_be_had(frames: int, cells: int, data: st.DataObject) -> None:
    possible = data.draw(st.integers(frames, frames * cells))
    most = unreachable(frames * cells, "most", possible, frames, cells)
    assert frames * frame_quota(cells, float(str(most).rpartition(" ")[2])) <= possible
    least = unreachable(frames, "least", possible, frames, cells)
    assert frames * frame_quota(cells, float(str(least).rpartition(" ")[2])) >= possible
    assert most.exit_code == 3


def video(frames: int = 4, side: int = 6, native_pool: str = "none") -> VisualTokens:
    features = torch.randn(frames, side * side, 3, generator=torch.Generator().manual_seed(0))
    return VisualTokens.of(features, (side, side), native_pool=native_pool)


def thin(n_anchors: int, ratio: float) -> Pipeline:
    """Return a pipeline whose frame stage leaves the segment stage ``n_anchors`` a frame."""
    return load_pipeline(
        {
            "budget": {"retention_ratio": ratio},
            "stages": {
                "frame": {"kind": "frame", "n_anchors": n_anchors, "selector": "uniform-grid"},
                "segment": {
                    "kind": "segment",
                    "segmenter": {"name": "fixed-length", "segment_frames": 2},
                    "coupler": "nearest",
                },
            },
        }
    )


def test_too_few_tokens_left_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(BudgetError) as caught:
        thin(5, 0.5).run(video())
    assert str(caught.value) == (
        "stage 'segment': 72 tokens (retention_ratio 0.5) cannot be met: at most 20 tokens are "
        "possible here; nearest retention_ratio 0.1388"
    )
    assert thin(5, 0.1388).run(video()).realised.n_tokens == 20


def test_a_grid_that_is_pooled_too_far_is_an_error_that_names_the_nearest() -> None:
    pool, frame = {"kind": "pool", "stride": 3}, {"kind": "frame", "selector": "random"}

    def pipeline(ratio: float) -> Pipeline:
        budget = {"retention_ratio": ratio}
        return load_pipeline({"budget": budget, "stages": {"pool": pool, "frame": frame}})

    with pytest.raises(BudgetError, match=r"at most 16 tokens are possible here.*ratio 0.4444$"):
        pipeline(0.9).run(video(native_pool="bilinear"))
    assert pipeline(0.4444).run(video(native_pool="bilinear")).realised.n_tokens == 16


@pytest.mark.parametrize(("ratio", "per_frame"), [(0.1, 1), (0.5, 5), (0.8, 8)])
def test_the_budget_counts_the_models_cells_whatever_the_pooling(
    ratio: float, per_frame: int
) -> None:
    """The budget is a share of what the LLM would have seen, here 9 cells of a pooled 6x6 grid."""
    pool = {"kind": "pool", "mode": "none"}
    pipeline = load_pipeline(
        {
            "budget": {"retention_ratio": ratio},
            "stages": {"pool": pool, "frame": {"kind": "frame", "selector": "random"}},
        }
    )
    reduced = pipeline.run(video(native_pool="bilinear"))
    assert reduced.realised.tokens_per_frame == (per_frame,) * 4
    assert reduced.realised.vanilla_tokens == 36


def test_stages_that_count_differently_cannot_claim_an_exact_budget() -> None:
    tokens = video(native_pool="bilinear")
    with pytest.raises(BudgetError, match=r"these stages keep 144 \(retention_ratio 4.0000\)"):
        load_pipeline("vanilla", {"stages.pool.mode": "none"}).run(tokens)
    floor = {"name": "local-global", "rounding": "floor", "shallow_layer": 0, "deep_layer": 0}
    pipeline = load_pipeline(
        "random",
        {"stages.frame.selector": floor, "stages.pool": None, "budget.retention_ratio": 0.4},
    )
    cues = {"attention@0": torch.rand(4, 36)}
    with pytest.raises(BudgetError, match=r"which budget\.mode: as-released accepts"):
        pipeline.run(VisualTokens.of(video().features, (6, 6), cues=cues))


def test_anchors_beyond_the_budget_are_trimmed_with_a_remark() -> None:
    reduced = thin(20, 0.1).run(video())
    assert reduced.realised.n_tokens == 16
    report = reduced.realised.stages[-1]
    assert report.remarks == ("anchors were trimmed to the budget",)
    assert reduced.realised.tokens_per_frame == (8, 0, 8, 0)


def test_trimming_drops_the_weakest_cells_first() -> None:
    """After pooling, cells with the largest share of anchors stay."""
    pipeline = load_pipeline(
        "aot-paper",
        {
            "budget.retention_ratio": 0.15,
            "stages.intra_frame.selector": "uniform-grid",
            "stages.intra_frame.n_anchors": 18,
            "stages.pool.keep": 0.25,
            "stages.inter_frame.segmenter": {"name": "fixed-length", "segment_frames": 1},
        },
    )
    tokens = video(2, 6, "bilinear")
    reduced = pipeline.run(tokens)
    keep = torch.zeros(36)
    keep[spread((6, 6), 18)] = 1
    share = keep.view(3, 2, 3, 2).mean((1, 3)).flatten()
    assert reduced.realised.tokens_per_frame == (2, 2)
    weakest_kept = share[reduced.token_index].min()
    assert float(weakest_kept) == pytest.approx(float(share.sort(descending=True).values[1]))


def test_a_thin_mask_is_topped_up_with_a_remark() -> None:
    pipeline = load_pipeline(
        "aot-paper",
        {
            "stages.intra_frame.selector": "uniform-grid",
            "stages.intra_frame.n_anchors": 2,
            "budget.retention_ratio": 0.5,
        },
    )
    reduced = pipeline.run(video(3, 6, "bilinear"))
    assert reduced.realised.n_tokens == 3 * 5
    assert reduced.realised.stages[1].remarks == (
        "frames with a thin mask were topped up to the budget",
    )


def test_more_anchors_than_tokens_left_is_an_error() -> None:
    stage = {"kind": "frame", "selector": "random"}
    pipeline = load_pipeline(
        {
            "budget": {"mode": "as-released"},
            "stages": {"a": {**stage, "n_anchors": 3}, "b": {**stage, "n_anchors": 5}},
        }
    )
    with pytest.raises(
        InputError, match="stage 'b': 5 anchors asked for, a frame has 3 tokens left"
    ):
        pipeline.run(video())


@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(0, 20)), min_size=1, max_size=8),
    st.integers(0, 200),
)
def test_apportioned_parts_add_up_and_respect_their_caps(cells, total: int) -> None:
    weights, caps = [weight for weight, _ in cells], [cap for _, cap in cells]
    parts = apportion(total, weights, caps)
    assert sum(parts) == min(total, sum(caps))
    assert all(0 <= part <= cap for part, cap in zip(parts, caps))


def test_apportioning_follows_the_weights_and_spills_over() -> None:
    assert apportion(10, [1.0, 1.0, 2.0], [9, 9, 9]) == [3, 2, 5]
    assert apportion(10, [1.0, 9.0], [20, 4]) == [6, 4]  # what is capped goes to the others
    assert apportion(5, [1.0, 0.0], [3, 9]) == [3, 2]  # in the end to those of no weight


def test_what_is_settled_is_part_of_the_budget() -> None:
    uniform = {"kind": "frame", "selector": "uniform-grid"}
    stages = {"first": {**uniform, "n_anchors": 3, "rest": "leave"}, "then": uniform}
    tokens = VisualTokens.of(torch.rand(2, 16, 3), (4, 4))
    for mode in ("exact", "as-released"):
        budget = {"mode": mode, "retention_ratio": 0.5}
        reduced = load_pipeline({"budget": budget, "stages": stages}).run(tokens)
        assert reduced.realised.tokens_per_frame == (8, 8)


def test_anchor_frames_are_counted_from_the_end_of_their_segment() -> None:
    allocator = build(BudgetAllocator, strategy_config("budget allocator", "anchor-frames"))
    cut = replace(VisualTokens.of(torch.rand(9, 4, 2), (2, 2)), segments=Segments((0, 6, 9)))
    assert allocator.allocate(cut, 2.0).tolist() == [0, 6, 0, 0, 0, 6, 0, 0, 6]


@pytest.mark.parametrize(
    ("spec", "rounding", "number"),
    [
        ("budget", "nearest", 20),
        ("budget * 54/64", "floor", 16),
        ("budget * 3/5", "ceil", 12),
        ("budget*1/2", "nearest", 10),
        ("budget - 1", "nearest", 19),
        ("budget - 30", "nearest", 0),
        (7, "nearest", 7),
        (0.5, "nearest", 98),
    ],
)
def test_anchors_as_parts_of_the_budget(spec, rounding, number: int) -> None:
    assert resolve_anchors(spec, 196, 0.1, quota=20, rounding=rounding) == number


@pytest.mark.parametrize("spec", ["budget * 3/2", "budget - x", "budgets"])
def test_parts_of_the_budget_that_make_no_sense_are_refused(spec: str) -> None:
    with pytest.raises(ConfigError):
        load_pipeline("random", {"stages.frame.n_anchors": spec})
