"""Every config field changes some output: a setting that does nothing is a lie."""

from dataclasses import replace
from typing import Any

import pytest

from property import plugins
from property.cases import CUES
from tokenred.pipeline import PipelineConfig, load_config
from tokenred.pipeline.config import About
from tokenred.testing import Change, Check
from tokenred.testing.fields import change_checks, differ, fields_of, outcome, strategy_fields


def frame(**settings: Any) -> dict[str, Any]:
    """Return a pipeline of one frame stage that merges."""
    stage = {
        "kind": "frame",
        "selector": "uniform-grid",
        "cost": ["cosine"],
        "coupler": "sinkhorn",
        "aggregator": {"name": "mass-normalised", "mass": "unit"},
        **settings,
    }
    return {"budget": {"retention_ratio": 0.2}, "stages": {"frame": stage}}


def segment(**settings: Any) -> dict[str, Any]:
    """Return a pipeline of one segment stage that merges."""
    stage = {
        "kind": "segment",
        "segmenter": {"name": "fixed-length", "segment_frames": 4},
        "coupler": "sinkhorn",
        "aggregator": "row-normalised",
        **settings,
    }
    return {"budget": {"retention_ratio": 0.5}, "stages": {"segment": stage}}


def decide(**settings: Any) -> dict[str, Any]:
    """Return a segment stage without a quota."""
    keep = {"score": "max-probability", "decide": settings}
    return {**segment(keep=keep), "budget": {"mode": "as-released"}}


def several(*stages: dict[str, Any], ratio: float = 0.3, **budget: Any) -> dict[str, Any]:
    """Return a pipeline of stages without names of their own: a, b, c, ..."""
    named = {chr(ord("a") + i): stage for i, stage in enumerate(stages)}
    return {"budget": {"retention_ratio": ratio, **budget}, "stages": named}


CUT = {"kind": "cut", "segmenter": {"name": "fixed-length", "segment_frames": 4}}
FRAME = {"kind": "frame", "selector": "uniform-grid"}
MERGING = {**FRAME, "coupler": "nearest", "aggregator": "mean"}
STATIC = {"kind": "static", "rule": {"name": "pairwise", "tau": 0.7}}
RELEASED = {"mode": "as-released"}
STILL = {"similar": 0.75}
PARTS = several(
    CUT,
    STATIC,
    {**FRAME, "part": "static", "n_anchors": 0.33},
    {**FRAME, "part": "dynamic", "n_anchors": 0.33},
    **RELEASED,
)
CLOSED = several({**FRAME, "n_anchors": 2}, {"kind": "newlines"}, **RELEASED)
ROWS = {"newlines": "row"}
TWICE = several({**FRAME, "n_anchors": 4, "rest": "leave", "selector": "top-attention"}, MERGING)
COUNTED = several(
    CUT,
    {
        "kind": "reference",
        "coupler": "nearest",
        "keep": {"score": "expected-cost", "decide": "count"},
    },
    ratio=0.5,
)
SHARED = several(
    {
        "kind": "reference",
        "coupler": "nearest",
        "keep": {"score": "expected-cost", "decide": {"name": "share", "drop_ratio": 0.3}},
    },
    **RELEASED,
)
GROUPED = several(
    {"kind": "group", "grouper": {"name": "quadtree"}},
    **RELEASED,
)
CALIBRATED = {
    "budget": {
        "mode": "calibrated",
        "retention_ratio": 0.5,
        "knob": "stages.segment.keep.decide.keep_ratio",
        "knob_range": [0.0, 1.0],
    },
    "stages": decide(name="quantile")["stages"],
}
COUPLER, AGGREGATOR, SELECTOR = (
    f"stages.frame.{slot}" for slot in ("coupler", "aggregator", "selector")
)
SEGMENTER, KEEP = "stages.segment.segmenter", "stages.segment.keep"
SMALL = {"frames": 4, "grid": (3, 3)}
BLEND = frame(aggregator="blend")
PEAKS = frame(selector="density-peaks")
CENTRES = frame(aggregator="centre-weighted", coupler="nearest")
LOCAL_GLOBAL = frame(selector="local-global")

CHANGES = {
    # the pipeline
    "seed": Change("random", "seed", 0, 1),
    "stages": Change(
        "top-attention",
        "stages.frame",
        {"kind": "frame", "selector": "random"},
        None,
        {"budget.mode": "as-released"},
    ),
    "budget": Change("random", "budget", {"retention_ratio": 0.5}, {"retention_ratio": 0.1}),
    "budget.retention_ratio": Change("random", "budget.retention_ratio", 0.5, 0.1),
    "budget.mode": Change(
        "vanilla", "budget.mode", "exact", "as-released", {"stages.pool.mode": "none"}
    ),
    "budget.knob": Change(
        CALIBRATED,
        "budget.knob",
        CALIBRATED["budget"]["knob"],
        "stages.segment.aggregator.strength",
        video=SMALL,
    ),
    "budget.knob_range": Change(
        CALIBRATED, "budget.knob_range", [0.0, 1.0], [0.9, 1.0], video=SMALL
    ),
    "budget.rounding": Change(
        "random",
        "budget.rounding",
        "ceil",
        "floor",
        {"budget.mode": "as-released", "budget.retention_ratio": 0.25},
    ),
    "budget.at_least": Change(
        "random",
        "budget.at_least",
        1,
        5,
        {"budget.mode": "as-released", "budget.retention_ratio": 0.1},
    ),
    # the stages
    "stage cut.segmenter": Change(
        several(CUT, {**MERGING, "scope": "segment"}),
        "stages.a.segmenter",
        "fixed-length",
        "single",
    ),
    "stage cut.descriptor": Change(
        several(
            {"kind": "cut", "segmenter": {"name": "dynamic", "min_segments": 3, "tau": -1}},
            {**MERGING, "scope": "segment"},
        ),
        "stages.a.descriptor",
        "mean-feature",
        "pooler",
    ),
    "stage frame.allocator": Change(frame(), "stages.frame.allocator", "equal", "anchor-frames"),
    "stage frame.budget_scope": Change(
        "top-attention", "stages.frame.budget_scope", "frame", "video"
    ),
    "stage frame.part": Change(PARTS, "stages.d.part", "dynamic", "static", video=STILL),
    "stage frame.rounding": Change(PARTS, "stages.d.rounding", "floor", "ceil", video=STILL),
    "stage frame.rest": Change(
        TWICE,
        "stages.a.rest",
        "leave",
        "drop",
        {"stages.b.n_anchors": 2, "budget.mode": "as-released"},
    ),
    "stage frame.order": Change(TWICE, "stages.b.order", "raster", "stage"),
    "stage frame.scope": Change(several(CUT, MERGING), "stages.b.scope", "segment", "frame"),
    "stage frame.rounds": Change(frame(), "stages.frame.rounds", 1, 3),
    "stage frame.sources": Change(frame(), "stages.frame.sources", "rest", "all"),
    "stage frame.mass": Change(frame(), "stages.frame.mass", "uniform", "attention@-1"),
    "budget allocator given.cue": Change(
        frame(allocator="given"), "stages.frame.allocator.cue", "frame-weights", "frame-others"
    ),
    "budget allocator given.as_counts": Change(
        {**frame(allocator="given"), "budget": {"retention_ratio": 0.2, "mode": "as-released"}},
        "stages.frame.allocator.as_counts",
        False,
        True,
    ),
    "stage newlines.after": Change(CLOSED, "stages.b.after", "row", "frame", video=ROWS),
    "stage newlines.of": Change(CLOSED, "stages.b.of", "row", "end", video=ROWS),
    "stage newlines.every": Change(CLOSED, "stages.b.every", False, True, video=ROWS),
    "stage newlines.behind": Change(
        CLOSED, "stages.b.behind", "it", "frame", {"stages.b.every": True}, video=ROWS
    ),
    "stage static.rule": Change(
        several(CUT, STATIC, **RELEASED), "stages.b.rule.tau", 0.7, 0.9, video=STILL
    ),
    "stage static.aggregator": Change(
        several(CUT, STATIC, **RELEASED), "stages.b.aggregator", "mean", "keep-only", video=STILL
    ),
    "stage reference.reference": Change(COUNTED, "stages.b.reference", "previous", "first"),
    "stage reference.cost": Change(COUNTED, "stages.b.cost", ["cosine"], ["cosine", "aligned"]),
    "stage reference.combine": Change(
        COUNTED, "stages.b.combine", "sum", "product", {"stages.b.cost": ["cosine", "spatial"]}
    ),
    "stage reference.coupler": Change(COUNTED, "stages.b.coupler", "nearest", "sinkhorn"),
    "stage reference.aggregator": Change(COUNTED, "stages.b.aggregator", "keep-only", "mean"),
    "stage reference.keep": Change(
        COUNTED,
        "stages.b.keep",
        {"score": "expected-cost"},
        {"score": "max-probability"},
        {"stages.b.coupler": "sinkhorn"},
    ),
    "stage reference.keep.score": Change(
        COUNTED,
        "stages.b.keep.score",
        "expected-cost",
        "max-probability",
        {"stages.b.coupler": "sinkhorn"},
    ),
    "stage reference.keep.decide": Change(
        SHARED, "stages.a.keep.decide", {"name": "share"}, {"name": "quantile"}
    ),
    "stage reference.scope": Change(COUNTED, "stages.b.scope", "frame", "video"),
    "stage reference.order": Change(COUNTED, "stages.b.order", "raster", "score"),
    "stage group.grouper": Change(
        GROUPED, "stages.a.grouper", "quadtree", "components", video=STILL
    ),
    "stage group.merge": Change(GROUPED, "stages.a.merge", "mean", "head", video=STILL),
    "stage frame.n_anchors": Change("aot-paper", "stages.intra_frame.n_anchors", 0.1, 0.3),
    "stage frame.selector": Change(frame(), SELECTOR, "uniform-grid", "random"),
    "stage frame.cost": Change(frame(), "stages.frame.cost", ["cosine"], ["cosine", "spatial"]),
    "stage frame.combine": Change(
        frame(cost=["cosine", "spatial"]), "stages.frame.combine", "sum", "product"
    ),
    "stage frame.coupler": Change(frame(), COUPLER, "sinkhorn", "nearest"),
    "stage frame.aggregator": Change(frame(), AGGREGATOR, "keep-only", "mean"),
    "stage pool.mode": Change(
        "vanilla",
        "stages.pool.mode",
        "bilinear",
        "average",
        {"budget.mode": "as-released"},
        {"grid": (5, 7)},
    ),
    "stage pool.stride": Change(
        "vanilla", "stages.pool.stride", 2, 3, {"budget.mode": "as-released"}
    ),
    "stage pool.keep": Change("aot-released", "stages.pool.keep", 0.2, 0.9),
    "stage segment.segmenter": Change(segment(), SEGMENTER, "single", "fixed-length"),
    "stage segment.descriptor": Change(
        segment(segmenter={"name": "dynamic", "min_segments": 4, "tau": -1}),
        "stages.segment.descriptor",
        "mean-feature",
        "pooler",
    ),
    "stage segment.cost": Change(
        segment(), "stages.segment.cost", ["cosine"], ["cosine", "spatial"]
    ),
    "stage segment.combine": Change(
        segment(cost=["cosine", "temporal"]),
        "stages.segment.combine",
        "sum",
        "product",
        {f"{KEEP}.score": "expected-cost"},
    ),
    "stage segment.coupler": Change(segment(), "stages.segment.coupler", "sinkhorn", "exact"),
    "stage segment.aggregator": Change(
        segment(), "stages.segment.aggregator", "row-normalised", "mean"
    ),
    "stage segment.keep": Change(
        segment(), KEEP, {"score": "max-probability"}, {"score": "expected-cost"}
    ),
    "stage segment.keep.score": Change(
        segment(), f"{KEEP}.score", "max-probability", "expected-cost"
    ),
    "stage segment.keep.decide": Change(
        decide(name="threshold"), f"{KEEP}.decide", {"name": "threshold"}, {"name": "quantile"}
    ),
    # selectors
    "selector local.windows": Change(
        frame(selector="local"), f"{SELECTOR}.windows", [3, 3], [2, 2]
    ),
    "selector local.layer": Change(frame(selector="local"), f"{SELECTOR}.layer", 0.2, -2),
    "selector local-global.windows": Change(LOCAL_GLOBAL, f"{SELECTOR}.windows", [3, 3], [2, 1]),
    "selector local-global.shallow_layer": Change(
        LOCAL_GLOBAL, f"{SELECTOR}.shallow_layer", 0.2, 1
    ),
    "selector local-global.deep_layer": Change(LOCAL_GLOBAL, f"{SELECTOR}.deep_layer", -2, -1),
    "selector local-global.global_ratio": Change(
        LOCAL_GLOBAL, f"{SELECTOR}.global_ratio", 0.2, 0.8
    ),
    "selector local-global.rounding": Change(
        LOCAL_GLOBAL, f"{SELECTOR}.rounding", "exact", "floor", {"budget.mode": "as-released"}
    ),
    "selector local-global.query": Change(LOCAL_GLOBAL, f"{SELECTOR}.query", "tokens", "class"),
    "selector top-attention.layer": Change("top-attention", f"{SELECTOR}.layer", -2, 0.5),
    "selector top-attention.query": Change("top-attention", f"{SELECTOR}.query", "tokens", "any"),
    "selector density-peaks.neighbours": Change(PEAKS, f"{SELECTOR}.neighbours", 1, 9),
    "selector density-peaks.of": Change(PEAKS, f"{SELECTOR}.of", "features", "keys@-1"),
    "selector density-peaks.at_most_anchors": Change(
        PEAKS,
        f"{SELECTOR}.at_most_anchors",
        False,
        True,
        {f"{SELECTOR}.neighbours": 20, "stages.frame.n_anchors": 2, "budget.mode": "as-released"},
    ),
    # cost terms
    "cost term cosine.weight": Change(frame(), "stages.frame.cost.0.weight", 1.0, 3.0),
    "cost term cosine.clip": Change(frame(), "stages.frame.cost.0.clip", 0.0, 0.7),
    "cost term cosine.shift": Change(
        frame(cost=["cosine", "spatial"], combine="product"),
        "stages.frame.cost.0.shift",
        "none",
        "minimum",
    ),
    "cost term cosine.of": Change(frame(), "stages.frame.cost.0.of", "features", "keys@-1"),
    "cost term euclidean.weight": Change(
        frame(cost=["euclidean"]), "stages.frame.cost.0.weight", 1.0, 3.0
    ),
    "cost term euclidean.of": Change(
        frame(cost=["euclidean"]), "stages.frame.cost.0.of", "features", "tower"
    ),
    "cost term spatial.weight": Change(
        frame(cost=["cosine", "spatial"]), "stages.frame.cost.1.weight", 1.0, 0.2
    ),
    "cost term temporal.weight": Change(
        segment(cost=["cosine", "temporal"], combine="product"),
        "stages.segment.cost.1.weight",
        1.0,
        4.0,
    ),
    "cost term temporal.sigma_frames": Change(
        segment(cost=["cosine", "temporal"], combine="product"),
        "stages.segment.cost.1.sigma_frames",
        1.5,
        0.3,
    ),
    "cost term temporal.max_gap_frames": Change(
        segment(cost=["cosine", "temporal"], combine="product"),
        "stages.segment.cost.1.max_gap_frames",
        None,
        1,
    ),
    # couplers
    "coupler sinkhorn.epsilon": Change(frame(), f"{COUPLER}.epsilon", 0.1, 1.0),
    "coupler sinkhorn.max_iter": Change(frame(), f"{COUPLER}.max_iter", 1, 50),
    "coupler sinkhorn.stop": Change(
        frame(), f"{COUPLER}.stop", "none", "residual", {f"{COUPLER}.tolerance": 0.1}
    ),
    "coupler sinkhorn.tolerance": Change(frame(), f"{COUPLER}.tolerance", 0.5, 1e-5),
    "coupler sinkhorn.last": Change(
        frame(), f"{COUPLER}.last", "source", "anchor", {f"{COUPLER}.max_iter": 1}
    ),
    "coupler sinkhorn.domain": Change(
        frame(), f"{COUPLER}.domain", "kernel", "log", {f"{COUPLER}.epsilon": 0.005}
    ),
    "coupler sinkhorn.acceleration": Change(
        frame(),
        f"{COUPLER}.acceleration",
        "none",
        "chebyshev",
        {f"{COUPLER}.stop": "none", f"{COUPLER}.max_iter": 6, f"{COUPLER}.epsilon": 0.02},
    ),
    "coupler sinkhorn.gradient": Change(
        frame(),
        f"{COUPLER}.gradient",
        "unrolled",
        "implicit",
        {f"{COUPLER}.stop": "none", f"{COUPLER}.max_iter": 2},
        gradient=True,
    ),
    "coupler cosine.temperature": Change(
        frame(coupler="cosine"), f"{COUPLER}.temperature", 0.1, 1.0
    ),
    # aggregators
    "aggregator mass-normalised.strength": Change(frame(), f"{AGGREGATOR}.strength", 1.0, 0.1),
    "aggregator mass-normalised.mass": Change(frame(), f"{AGGREGATOR}.mass", "plan", "unit"),
    "aggregator mass-normalised.own": Change(frame(), f"{AGGREGATOR}.own", "one", "mass"),
    "aggregator centre-weighted.beta": Change(CENTRES, f"{AGGREGATOR}.beta", 0.6, 0.2),
    "aggregator centre-weighted.at_least_mean": Change(
        CENTRES, f"{AGGREGATOR}.at_least_mean", False, True, {f"{AGGREGATOR}.beta": 0.05}
    ),
    "aggregator centre-weighted.own_in_mean": Change(
        CENTRES, f"{AGGREGATOR}.own_in_mean", False, True
    ),
    "aggregator sum.own": Change(frame(aggregator="sum"), f"{AGGREGATOR}.own", "one", "mass"),
    # budget allocators
    "budget allocator anchor-frames.every": Change(
        frame(allocator="anchor-frames"), "stages.frame.allocator.every", 4, 2
    ),
    "aggregator row-normalised.strength": Change(
        frame(aggregator="row-normalised"), f"{AGGREGATOR}.strength", 1.0, 0.1
    ),
    "aggregator blend.first": Change(
        BLEND, f"{AGGREGATOR}.first", "mass-normalised", "row-normalised"
    ),
    "aggregator blend.second": Change(BLEND, f"{AGGREGATOR}.second", "mean", "mass-normalised"),
    "aggregator blend.second_coupler": Change(
        BLEND,
        f"{AGGREGATOR}.second_coupler",
        "nearest",
        {"name": "cosine", "temperature": 10.0},
        {f"{AGGREGATOR}.second": "row-normalised"},
    ),
    "aggregator blend.second_cost": Change(
        frame(aggregator="blend", cost=["cosine", "spatial"]),
        f"{AGGREGATOR}.second_cost",
        "cosine",
        "spatial",
    ),
    "aggregator blend.share": Change(BLEND, f"{AGGREGATOR}.share", 0.1, 0.9),
    # segmenters
    "segmenter fixed-length.segment_frames": Change(segment(), f"{SEGMENTER}.segment_frames", 4, 2),
    "segmenter fixed-count.n_segments": Change(
        segment(segmenter="fixed-count"), f"{SEGMENTER}.n_segments", 2, 3
    ),
    "segmenter fixed-count.only_frames": Change(
        segment(segmenter={"name": "fixed-count", "n_segments": 2}),
        f"{SEGMENTER}.only_frames",
        [],
        [32, 64],
    ),
    "segmenter dynamic.min_segments": Change(
        segment(segmenter={"name": "dynamic", "tau": -1}), f"{SEGMENTER}.min_segments", 2, 4
    ),
    "segmenter dynamic.tau": Change(
        segment(segmenter={"name": "dynamic", "min_segments": 1}), f"{SEGMENTER}.tau", -1, 0.95
    ),
    "segmenter dynamic.short_video": Change(
        segment(segmenter="dynamic"),
        f"{SEGMENTER}.short_video",
        "clamp",
        "error",
        {f"{SEGMENTER}.min_segments": 99, "budget.retention_ratio": 1.0},
    ),
    "segmenter clustering.n_segments": Change(
        segment(segmenter="clustering"), f"{SEGMENTER}.n_segments", 2, 3
    ),
    "segmenter clustering.linkage": Change(
        segment(segmenter="clustering"),
        f"{SEGMENTER}.linkage",
        "ward",
        "average",
        {f"{SEGMENTER}.n_segments": 4},
        {"frames": 12, "similar": 0.0, "seed": 3},
    ),
    # keep decisions
    "keep decision threshold.tau": Change(decide(name="threshold"), f"{KEEP}.decide.tau", 0.3, 0.9),
    "keep decision threshold.inclusive": Change(
        several(
            {
                "kind": "reference",
                "coupler": "nearest",
                "keep": {"score": "max-probability", "decide": {"name": "threshold", "tau": 1.0}},
            },
            **RELEASED,
        ),
        "stages.a.keep.decide.inclusive",
        False,
        True,
    ),
    "keep decision share.drop_ratio": Change(SHARED, "stages.a.keep.decide.drop_ratio", 0.3, 0.7),
    "keep decision share.rounds_down": Change(
        SHARED, "stages.a.keep.decide.rounds_down", "kept", "dropped"
    ),
    "keep decision share.released": Change(
        SHARED,
        "stages.a.keep.decide.released",
        False,
        True,
        {"stages.a.keep.decide.drop_ratio": 0.9},
        {"grid": (2, 5)},
    ),
    "keep decision quantile.keep_ratio": Change(
        decide(name="quantile"), f"{KEEP}.decide.keep_ratio", 0.2, 0.8
    ),
}


CHANGES |= {
    name: replace(change, video={"cues": CUES, **change.video})
    for name, change in plugins.rows("CHANGES").items()
}


def inside(name: str, **settings: Any) -> dict[str, Any]:
    """Return a pipeline of one stage between the layers."""
    return {"stages": {"llm": {"kind": "llm", "reducer": {"name": name, **settings}}}}


def ranked(**settings: Any) -> dict[str, Any]:
    """Return a ranked reduction to half of the tokens before layer 1."""
    return inside("ranked", **{"schedule": {1: 0.5}, **settings})


REDUCER = "stages.llm.reducer"
RANKER, MERGER, PRUNER = f"{REDUCER}.ranker", f"{REDUCER}.merger", "stages.cache.pruner"
FUSION = inside("framefusion")
CACHE = {"stages": {"cache": {"kind": "cache", "pruner": "dycoke"}}}
STILL = {"change": 0.001}

CHANGES |= {
    "stage llm.reducer": Change(
        FUSION, REDUCER, "framefusion", {"name": "ranked", "schedule": {1: 0.5}}
    ),
    "stage cache.pruner": Change(CACHE, PRUNER, "dycoke", {"name": "dycoke", "drop_ratio": 0.0}),
    # rankers
    "token ranker random.seed": Change(ranked(ranker="random"), f"{RANKER}.seed", 0, 1),
    # mergers
    # reducers
    "layer reducer ranked.schedule": Change(ranked(), f"{REDUCER}.schedule", {1: 0.5}, {2: 0.5}),
    "layer reducer ranked.ranker": Change(ranked(), RANKER, "last-query", "position-free"),
    "layer reducer ranked.merger": Change(ranked(), MERGER, "drop", "fold"),
    "layer reducer ranked.rounding": Change(
        ranked(schedule={1: 0.36}), f"{REDUCER}.rounding", "floor", "ceil"
    ),
    "layer reducer ranked.quota": Change(ranked(), f"{REDUCER}.quota", "prompt", "group"),
    "layer reducer ranked.newlines": Change(
        ranked(schedule={1: 4}), f"{REDUCER}.newlines", "keep", "rank", prompt={"newlines": "row"}
    ),
    "layer reducer ranked.drop_at_least": Change(
        ranked(schedule={1: 1.0}), f"{REDUCER}.drop_at_least", 0, 2
    ),
    "layer reducer ranked.share_of": Change(
        ranked(schedule={1: 0.5, 2: 0.5}), f"{REDUCER}.share_of", "entered", "current"
    ),
    "layer reducer ranked.at_least": Change(ranked(schedule={1: 0}), f"{REDUCER}.at_least", 0, 2),
    "layer reducer ranked.longer_than": Change(ranked(), f"{REDUCER}.longer_than", 0, 10_000),
    "layer reducer ranked.missing_layers": Change(
        ranked(schedule={1: 0.5, 900: 0.5}), f"{REDUCER}.missing_layers", "refuse", "skip"
    ),
    "layer reducer ranked.positions": Change(ranked(), f"{REDUCER}.positions", "keep", "renumber"),
    "layer reducer ranked.cut_cache": Change(ranked(), f"{REDUCER}.cut_cache", False, True),
    "layer reducer ranked.unmasked_before": Change(
        ranked(), f"{REDUCER}.unmasked_before", False, True
    ),
}


def every_field() -> list[str]:
    """Return every setting that a pipeline file can hold."""
    return [*fields_of(PipelineConfig, ""), *strategy_fields()]


def test_every_field_is_in_the_table() -> None:
    """A plugin's rows are in its ``tests/fields``."""
    assert sorted(set(every_field()) - set(CHANGES)) == []
    assert sorted(set(CHANGES) - set(every_field())) == []


@pytest.mark.parametrize(
    "check",
    [check for name, change in CHANGES.items() for check in change_checks(name, change)],
    ids=lambda check: check.name,
)
def test_field(check: Check) -> None:
    check()


@pytest.mark.parametrize("path", ["name", *(f"about.{name}" for name in About.model_fields)])
def test_what_is_for_readers_is_not_part_of_the_identity(path: str) -> None:
    plain = load_config("aot-paper")
    many = (
        isinstance(About.model_fields[path.partition(".")[2]].default, tuple) if "." in path else 0
    )
    told = load_config("aot-paper", {path: ["x"] if many else "x"})
    assert told != plain
    assert told.config_id == plain.config_id
    assert not differ(outcome(told, {}), outcome(plain, {}))


def test_a_setting_without_effect_would_be_noticed() -> None:
    """The comparison itself: equal runs are equal, and neither order nor mass is overlooked."""
    config = load_config("random")
    first = outcome(config, {})
    assert not differ(first, outcome(config, {}))
    for part in range(4):
        moved = list(first)
        moved[part] = moved[part].flip(0) if part < 3 else moved[part] + 1
        assert differ(first, tuple(moved))


def test_a_row_without_effect_is_refused() -> None:
    """The checks themselves: no effect, two errors, and rows too few or too many."""
    from tokenred.testing import field_checks

    def broken(changes: dict[str, Change], like: str = "") -> set[str]:
        names = set()
        for check in field_checks(changes, owner="tokenred"):
            try:
                if like in check.name:
                    check()
            except AssertionError:
                names.add(check.name)
        return names

    effect, rows = "changes the output", "every_field_has_a_row"
    inert = Change("top-attention", "seed", 0, 1)
    assert broken({"seed": inert}) == {rows, f"seed {effect}"}
    cut = {"budget": {"retention_ratio": 1.0}, "stages": {"pool": {"kind": "pool", "stride": 99}}}
    errors = Change(cut, "stages.pool.mode", "bilinear", "average")
    assert broken({"mode": errors}) == {rows, f"mode {effect}"}
    same = Change("random", "name", "a", "b")
    assert broken({"name": same}) == {rows, f"name {effect}", "name is part of the identity"}
    mine = {name: change for name, change in CHANGES.items() if name in strategy_fields("tokenred")}
    assert not broken(mine, rows)
    assert broken({**mine, "coupler sinkhorn.nothing": inert}, rows)
