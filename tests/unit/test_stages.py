"""What each stage does to the tokens, by hand on small grids."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tokenred import (
    CapabilityError,
    ConfigError,
    InputError,
    Segments,
    TemporalSegmenter,
    VisualTokens,
    load_pipeline,
)
from tokenred.errors import StrategyError
from tokenred.kernels.merge import padded_index
from tokenred.kernels.sparse import sparse_map
from tokenred.pipeline.flow import Transport, grid_positions, uniform_mass
from tokenred.pipeline.pipeline import Pipeline
from tokenred.strategies.costs import CosineCost, TemporalConfig
from tokenred.strategies.couplers import SinkhornConfig, SinkhornCoupler
from tokenred.types import Grouping, ReducedTokens, TokenGroup


def video(values: torch.Tensor, grid: tuple[int, int], **cues: torch.Tensor) -> VisualTokens:
    """Return tokens whose features are given as (frames, tokens) or (frames, tokens, dim)."""
    features = values if values.ndim == 3 else values[..., None]
    return VisualTokens.of(
        features.float(), grid, cues={k.replace("_", "@"): v for k, v in cues.items()}
    )


def run(
    stages: dict[str, Any],
    tokens: VisualTokens,
    mode: str = "as-released",
    ratio: float = 1.0,
    trace: bool = False,
) -> ReducedTokens:
    config = {"budget": {"mode": mode, "retention_ratio": ratio}, "stages": stages}
    return load_pipeline(config).run(tokens, trace=trace)


def frame(n_anchors: Any, **settings: Any) -> dict[str, Any]:
    return {
        "kind": "frame",
        "n_anchors": n_anchors,
        "selector": {"name": "top-attention", "layer": 0},
        **settings,
    }


SPATIAL = {"cost": ["spatial"], "coupler": "nearest", "aggregator": "mean"}
SCORES = torch.tensor([[0.9, 0.1, 0.2, 0.8], [0.1, 0.9, 0.8, 0.2]])


def test_frame_stage_merges_into_the_nearest_anchor() -> None:
    tokens = video(torch.tensor([[0, 1, 2, 3], [10, 11, 12, 13]]), (1, 4), attention_0=SCORES)
    reduced = run({"a": frame(2, **SPATIAL)}, tokens, trace=True)
    assert reduced.token_index.tolist() == [0, 3, 1, 2]
    assert reduced.frame_index.tolist() == [0, 0, 1, 1]
    assert reduced.features.flatten().tolist() == [0.5, 2.5, 10.5, 12.5]
    assert reduced.mass.tolist() == [2.0, 2.0, 2.0, 2.0]
    assert reduced.trace is not None
    assert reduced.trace.to_dense()[1].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0]


def test_sizes_of_both_sides_have_one_total() -> None:
    """A coupler that meets both marginals cannot otherwise."""
    stages = {
        "merge": frame(3, **SPATIAL),
        "again": frame(2, **{**SPATIAL, "coupler": "sinkhorn"}, mass="size"),
    }
    tokens = video(torch.arange(8.0).view(2, 4), (2, 2), attention_0=SCORES)
    again = run(stages, tokens).realised.stages[1]  # one token against two that stand for three
    assert again.converged
    assert again.residual < 1e-3


def test_two_frame_stages_compose() -> None:
    tokens = video(torch.tensor([[0.0, 1, 2, 7]]), (1, 4), attention_0=SCORES[:1])
    stages = {"a": frame(2, **SPATIAL), "b": frame(1, **SPATIAL)}
    reduced = run(stages, tokens, trace=True)
    assert reduced.features.item() == 2.5
    assert reduced.mass.item() == 4.0
    assert reduced.trace is not None
    assert reduced.trace.to_dense().tolist() == [[0.25] * 4]
    assert [report.n_tokens for report in reduced.realised.stages] == [2, 1]


def test_frame_stage_leaves_dropped_tokens_out() -> None:
    tokens = video(torch.tensor([[0.0, 1, 2, 3]]), (1, 4), attention_0=SCORES[:1])
    tokens = replace(tokens, keep=torch.tensor([[True, True, True, False]]))
    reduced = run({"a": frame(1, **SPATIAL)}, tokens)
    assert reduced.features.item() == 1.0
    assert reduced.mass.item() == 3.0


def test_a_selector_that_breaks_its_word_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_pipeline({"budget": {"mode": "as-released"}, "stages": {"a": frame(2)}})
    selector = pipeline.stages["a"].selector
    tokens = video(torch.zeros(2, 4), (1, 4), attention_0=SCORES)
    tokens = replace(tokens, keep=torch.tensor([[True, True, True, False]] * 2))
    for chosen in (torch.tensor([[3], [0]]), torch.zeros(2, 4, dtype=torch.bool)):
        monkeypatch.setattr(selector, "select", lambda *_, chosen=chosen, **__: chosen)
        with pytest.raises(InputError, match="stage 'a': selector 'top-attention' chose a dropped"):
            pipeline.run(tokens)


POOL = {"kind": "pool", "mode": "average"}


def test_pool_stage_pools_features_mask_mass_and_cues() -> None:
    values = torch.arange(16.0).view(1, 16)
    scores = torch.zeros(1, 16)
    scores[0, [0, 1, 4, 10, 2]] = torch.tensor([5.0, 4, 3, 2, 1])
    tokens = video(values, (4, 4), attention_0=scores)
    reduced = run({"a": frame(5), "pool": {**POOL, "keep": 0.25}}, tokens, trace=True)
    # 3 anchors in the first block, one in the second and one in the last
    assert reduced.grid == (2, 2)
    assert reduced.token_index.tolist() == [0, 1, 3]
    assert reduced.features.flatten().tolist() == [2.5, 4.5, 12.5]
    assert run({"a": frame(5), "pool": POOL}, tokens).token_index.tolist() == [0]
    counted = {"a": frame(5), "pool": {**POOL, "keep": "count"}}
    two = run(counted, tokens, "exact", 2 / 16)
    assert two.token_index.tolist() == [0, 3]  # equal masks: block 3 is attended more than block 1


def test_pool_stage_averages_masses() -> None:
    tokens = video(torch.arange(4.0).view(1, 4), (2, 2), attention_0=SCORES[:1])
    reduced = run({"a": frame(1, **SPATIAL), "pool": {**POOL, "keep": 0.25}}, tokens)
    assert reduced.mass.tolist() == [(4 + 3 * 1) / 4]  # the anchor stands for all, others for one


def test_pool_stage_looks_at_the_mask_before_attention() -> None:
    attention = torch.zeros(1, 16)
    attention[0, 7] = 1.0  # in block 1, which holds one anchor; block 3 holds two
    stages = {
        "a": {"kind": "frame", "n_anchors": 5, "selector": "uniform-grid"},
        "pool": {**POOL, "keep": "count"},
    }
    tokens = video(torch.arange(16.0).view(1, 16), (4, 4), attention_0=attention)
    assert run(stages, tokens, "exact", 1 / 16).token_index.tolist() == [3]


def test_pool_stage_orders_equal_cells_by_raster() -> None:
    tokens = video(torch.arange(16.0).view(1, 16), (4, 4))
    stages = {
        "a": {"kind": "frame", "n_anchors": 4, "selector": "uniform-grid"},
        "pool": {**POOL, "keep": "count"},
    }
    assert run(stages, tokens, "exact", 2 / 16).token_index.tolist() == [0, 1]


def test_pool_stage_follows_the_model_unless_told_otherwise() -> None:
    tokens = VisualTokens.of(torch.randn(1, 35, 2), (5, 7), native_pool="bilinear")
    grids = {
        mode: run({"p": {"kind": "pool", "mode": mode}}, tokens).grid
        for mode in ("model", "bilinear", "average", "none")
    }
    assert grids == {"model": (3, 4), "bilinear": (3, 4), "average": (2, 3), "none": (5, 7)}
    assert run({"p": {"kind": "pool"}}, replace(tokens, native_pool="none")).grid == (5, 7)
    assert run({"p": {"kind": "pool", "stride": 3}}, tokens).grid == (2, 3)


def test_pool_stage_refuses_to_pool_everything_away() -> None:
    with pytest.raises(ConfigError, match=r"^stages.p.stride: stride 7 pools a \(2, 2\) grid away"):
        run({"p": {**POOL, "stride": 7}}, VisualTokens.of(torch.zeros(1, 4, 2), (2, 2)))


def test_the_maximum_has_no_trace() -> None:
    tokens = VisualTokens.of(torch.randn(1, 16, 2), (4, 4), native_pool="max")
    stages = {"p": {"kind": "pool"}}
    assert run(stages, tokens).grid == (2, 2)
    with pytest.raises(CapabilityError, match="pools by the maximum, which has no trace"):
        run(stages, tokens, trace=True)


def segment(**settings: Any) -> dict[str, Any]:
    keep = {"score": "expected-cost", "decide": {"name": "threshold", "tau": 0.5}}
    return {
        "kind": "segment",
        "segmenter": "single",
        "cost": ["cosine"],
        "coupler": "nearest",
        "aggregator": "mean",
        "keep": keep,
        **settings,
    }


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
SCENE = torch.tensor([[EAST, NORTH], [EAST, WEST], [[3.0, 0.0], NORTH]])


def test_segment_stage_merges_what_resembles_the_first_frame() -> None:
    reduced = run({"s": segment()}, video(SCENE, (1, 2)), trace=True)
    # frame 1: EAST merges, WEST stays; frame 2: both merge
    assert list(zip(reduced.frame_index.tolist(), reduced.token_index.tolist())) == [
        (0, 0),
        (0, 1),
        (1, 1),
    ]
    # one frame after the other: ((1 + 1) / 2 + 3) / 2, and NORTH with itself
    assert reduced.features.tolist() == [[2.0, 0.0], NORTH, WEST]
    assert reduced.mass.tolist() == [3.0, 2.0, 1.0]
    assert reduced.trace is not None
    assert reduced.trace.to_dense()[0].tolist() == [0.25, 0, 0.25, 0, 0.5, 0]
    assert reduced.realised.stages[0].n_segments == 1


def test_what_a_chain_of_frames_repeats_reaches_the_first() -> None:
    keep = {"score": "expected-cost", "decide": {"name": "threshold", "tau": 0.5}}
    stage = {"kind": "reference", "coupler": "nearest", "aggregator": "mean", "keep": keep}
    scene = torch.tensor([EAST, NORTH]) * torch.tensor([1.0, 2, 3])[:, None, None]
    reduced = run({"r": stage}, video(scene, (1, 2)))
    assert reduced.frame_index.tolist() == [0, 0]
    assert reduced.mass.tolist() == [3, 3]
    # frame 2 goes into frame 1, and what that is then into frame 0
    assert reduced.features.tolist() == [[1.75, 0.0], [0.0, 1.75]]


def test_segments_start_anew() -> None:
    reduced = run(
        {"s": segment(segmenter={"name": "fixed-length", "segment_frames": 2})},
        video(SCENE, (1, 2)),
    )
    assert reduced.frame_index.tolist() == [0, 0, 1, 2, 2]
    assert reduced.realised.stages[0].n_segments == 2


def test_the_release_of_aot_sends_anchors_before_and_after_the_merge() -> None:
    stages = {"s": segment(kind="aot-released-segment")}
    reduced = run(stages, video(SCENE, (1, 2)), trace=True)
    assert reduced.features.tolist() == [EAST, NORTH, WEST, [2.0, 0.0], NORTH]
    assert reduced.mass.tolist() == [1.0, 1.0, 1.0, 3.0, 2.0]
    assert reduced.frame_index.tolist() == [0, 0, 1, 0, 0]
    assert reduced.trace is not None
    assert reduced.trace.to_dense()[0].tolist() == [1, 0, 0, 0, 0, 0]


def test_exact_quotas_follow_what_a_frame_has_left() -> None:
    tokens = video(torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(0)), (2, 4))
    keep = torch.ones(4, 8, dtype=torch.bool)
    keep[0, 2:] = False  # two anchors
    keep[2, 2:] = False
    stages = {"s": segment(keep={"score": "expected-cost", "decide": "count"})}
    reduced = run(stages, replace(tokens, keep=keep), "exact", 0.375)
    assert reduced.realised.tokens_per_frame == (2, 5, 1, 4)  # 10 left for 8, 2 and 8 tokens


def test_frame_descriptors() -> None:
    tokens = video(
        torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0)),
        (2, 2),
        pooler=torch.eye(2)[torch.tensor([0, 0, 0, 0, 1, 1])],
    )
    stages = {
        "s": segment(
            segmenter={"name": "dynamic", "min_segments": 2, "tau": -1},
            descriptor="pooler",
            keep={"decide": {"name": "quantile", "keep_ratio": 0}},
        )
    }
    assert run(stages, tokens).frame_index.unique().tolist() == [0, 4]
    with pytest.raises(CapabilityError, match="needs cues that are missing: pooler"):
        run(stages, replace(tokens, cues={}))


class Forgetful(TemporalSegmenter):
    def segment(self, descriptors: Any, *, frame_times: Any = None) -> Segments:
        return Segments((0, len(descriptors) - 1))


def test_a_segmenter_that_forgets_frames_is_named() -> None:
    pipeline = load_pipeline({"budget": {"mode": "as-released"}, "stages": {"s": segment()}})
    pipeline.stages["s"].segmenter = Forgetful()
    with pytest.raises(StrategyError, match=r"segmenter 'Forgetful' .*ends at frame 2, the vid"):
        pipeline.run(video(SCENE, (1, 2)))


@pytest.mark.parametrize("decide", ["threshold", "quantile"])
def test_a_segment_without_anchors_keeps_what_follows(decide: str) -> None:
    """A thin mask may leave the first frame of a segment empty; there is nothing to merge into."""
    scores = torch.zeros(2, 16)
    scores[0, [0, 2, 8, 10]] = 1  # one token of each block: no cell reaches one half
    scores[1, [0, 1, 4, 5]] = 1  # the whole first block
    tokens = video(torch.randn(2, 16, 3), (4, 4), attention_0=scores)
    stages = {"a": frame(4), "pool": POOL, "s": segment(keep={"decide": decide})}
    reduced = run(stages, tokens, trace=True)
    assert reduced.frame_index.tolist() == [1]
    assert reduced.token_index.tolist() == [0]


def test_solver_state_is_reported() -> None:
    tokens = video(
        torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0)),
        (4, 4),
        attention_0=torch.rand(3, 16),
    )
    coupler = {"name": "sinkhorn", "epsilon": 0.01, "max_iter": 3}
    stages = {
        "a": frame(5, coupler=coupler, aggregator="mass-normalised"),
        "s": segment(coupler={"name": "sinkhorn", "epsilon": 0.5}),
    }
    first, second = run(stages, tokens).realised.stages
    assert (first.name, first.kind, first.n_iter, first.converged) == ("a", "frame", 3, False)
    assert first.residual > 1e-3
    assert second.converged
    assert 0 < second.residual < 1e-3
    assert second.n_iter >= 1
    assert first.ms > 0


def test_padding_repeats_a_real_entry() -> None:
    index, real = padded_index(torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]]).bool())
    assert index.tolist() == [[1, 3, 1, 1], [2, 2, 2, 2], [0, 1, 2, 3]]
    assert real.sum(-1).tolist() == [2, 1, 4]


def test_positions_are_scaled_to_one() -> None:
    device = torch.device("cpu")
    assert grid_positions((2, 3), device).tolist() == [
        [0, 0],
        [0, 0.5],
        [0, 1],
        [1, 0],
        [1, 0.5],
        [1, 1],
    ]
    assert grid_positions((1, 1), device).tolist() == [[0, 0]]


def test_uniform_mass_is_zero_on_padding() -> None:
    real = torch.tensor([[True, True, False], [False, False, False]])
    assert uniform_mass(real).tolist() == [[0.5, 0.5, 0], [0, 0, 0]]


def test_a_config_error_inside_a_stage_has_its_full_path() -> None:
    stage = frame(2, aggregator={"name": "blend", "second_cost": "temporal"}, coupler="nearest")
    tokens = video(torch.zeros(2, 4), (1, 4), attention_0=SCORES)
    with pytest.raises(
        ConfigError, match=r"^stages.a.aggregator.second_cost: the stage has no cost"
    ):
        run({"a": stage}, tokens)


def test_needs_are_those_of_all_stages() -> None:
    pipeline = load_pipeline("aot-paper", {"inter_frame.descriptor": "pooler"})
    assert pipeline.needs == {"attention@0.2", "attention@-2", "pooler"}
    assert isinstance(pipeline, Pipeline)


KEYS = {"cost": [{"name": "cosine", "of": "keys@0"}], "coupler": "nearest", "aggregator": "mean"}
THREES = {"name": "fixed-length", "segment_frames": 3}
HALF = {"name": "share", "drop_ratio": 0.5}
CUT = {"kind": "cut", "segmenter": THREES}
LATER = frame(2, selector="uniform-grid", **KEYS)
MERGING: dict[str, dict[str, Any]] = {
    "frame": {"a": frame(4, selector="uniform-grid", **SPATIAL), "b": LATER},
    "static": {
        "cut": CUT,
        "a": {"kind": "static", "rule": {"name": "pairwise", "tau": -1}},
        "b": {**LATER, "part": "static"},
    },
    "reference": {
        "cut": CUT,
        "a": {"kind": "reference", **KEYS, "keep": {"score": "expected-cost", "decide": HALF}},
        "b": {**LATER, "n_anchors": 1},
    },
    "group": {"a": {"kind": "group", "grouper": "quadtree"}, "b": {**LATER, "n_anchors": 1}},
    "segment": {
        "a": {"kind": "segment", "segmenter": THREES, **KEYS, "keep": {"decide": HALF}},
    },
}


class _Pairs:
    """Blends each even token of a frame with the odd one behind it."""

    needs: frozenset[str] = frozenset()

    def group(self, tokens: VisualTokens, **_: object) -> Grouping:
        everything = torch.arange(tokens.keep.numel())
        weights = torch.full((len(everything),), 0.5)
        size = (len(everything) // 2, len(everything))
        return Grouping(
            everything[::2], sparse_map(torch.stack([everything // 2, everything]), weights, size)
        )


@pytest.mark.parametrize("kind", MERGING)
def test_keys_of_a_later_cost_are_those_of_the_merged_tokens(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that equal the features stay equal to them, whatever is merged."""
    features = torch.randn(6, 6, 5, generator=torch.Generator().manual_seed(0))
    real, changed = CosineCost.cost, []

    def cost(self: CosineCost, sources: TokenGroup, anchors: TokenGroup) -> torch.Tensor:
        for group in (sources, anchors):
            if "keys@0" in group.cues:
                torch.testing.assert_close(group.cues["keys@0"], group.features)
                known = (group.features.reshape(-1, 1, 5) == features.view(-1, 5)).all(-1).any(-1)
                changed.append(not bool(known.all()))
        return real(self, sources, anchors)

    monkeypatch.setattr(CosineCost, "cost", cost)
    config = {"budget": {"mode": "as-released"}, "stages": MERGING[kind]}
    pipeline = load_pipeline(config)
    for stage in pipeline.stages.values():
        if hasattr(stage, "grouper"):
            stage.grouper = _Pairs()
    pipeline.run(VisualTokens.of(features, (2, 3), cues={"keys@0": features.clone()}))
    assert any(changed)


@pytest.mark.parametrize("told", [True, False])
def test_nothing_goes_through_a_forbidden_pair(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the coupler can be told of such pairs, or sees them at a high price."""

    transport = Transport(
        [TemporalConfig(name="temporal", max_gap_frames=1)],
        "sum",
        SinkhornConfig(name="sinkhorn", epsilon=0.1),
    )
    if not told:
        whole = SinkhornCoupler.couple
        monkeypatch.setattr(
            transport.coupler, "couple", lambda cost, a, b: whole(transport.coupler, cost, a, b)
        )
    group = TokenGroup(torch.zeros(4, 2), torch.zeros(4, 2), torch.arange(4.0))
    mass = torch.full((4,), 0.25)
    coupling = transport(group, group, mass, mass)
    far = (torch.arange(4)[:, None] - torch.arange(4)).abs() > 1
    assert bool((coupling.plan[far] == 0).all())
    assert bool((coupling.plan[~far] > 0).all())
    assert coupling.forbidden is not None
    assert torch.equal(coupling.forbidden, far)
    assert float(coupling.plan.sum()) > 0.99  # nothing was sent where it is taken back
    one = TokenGroup(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1))
    lonely = transport(group, one, mass, torch.ones(1)).plan[:, 0]
    assert lonely[2:].tolist() == [0, 0]  # nobody is near enough
    assert bool((lonely[:2] > 0).all())
