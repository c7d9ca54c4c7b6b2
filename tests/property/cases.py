"""What the property tests run over: every registered strategy, in several settings, and videos."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from property import plugins
from tokenred import (
    BudgetError,
    InputError,
    Pipeline,
    TokenredError,
    VisualTokens,
    load_pipeline,
    registry,
)
from tokenred.config import is_of_frames
from tokenred.pipeline import load_config
from tokenred.registry import ROLES, Entry, name_key
from tokenred.slots import build, parts, strategy_config
from tokenred.testing import drawn_cue, video_tokens

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("coupler", "sinkhorn"): [
        {"stop": "none", "max_iter": 30},
        {"stop": "scaling", "tolerance": 0.01, "last": "source"},
        {"stop": "scaling-batch", "tolerance": 0.01},
        {"domain": "log", "epsilon": 0.5, "last": "source"},
        {"epsilon": 0.02, "max_iter": 3},
    ],
    ("coupler", "cosine"): [{"temperature": 2.0}],
    ("aggregator", "mass-normalised"): [{"mass": "unit"}, {"strength": 3.0}, {"own": "mass"}],
    ("aggregator", "centre-weighted"): [
        {"at_least_mean": True, "beta": 0.1},
        {"own_in_mean": True},
    ],
    ("aggregator", "sum"): [{"own": "mass"}],
    ("aggregator", "row-normalised"): [{"strength": 0.5}],
    ("aggregator", "blend"): [{"first": "row-normalised", "second": "keep-only", "share": 0.5}],
    ("segmenter", "fixed-length"): [{"segment_frames": 1}, {"segment_frames": 7}],
    ("segmenter", "fixed-count"): [{"n_segments": 1}, {"n_segments": 5}],
    ("segmenter", "dynamic"): [{"min_segments": 1}, {"min_segments": 3, "tau": -1}],
    ("segmenter", "clustering"): [
        {"n_segments": 3, "linkage": "ward"},
        {"n_segments": 2, "linkage": "complete"},
    ],
    ("selector", "local"): [{"windows": (2, 4), "layer": 3}],
    ("selector", "top-attention"): [{"layer": "pooler"}, {"query": "class"}, {"query": "any"}],
    ("selector", "density-peaks"): [{"neighbours": 1}, {"of": "keys@-1"}],
    ("selector", "local-global"): [
        {"global_ratio": 0.0},
        {"global_ratio": 1.0},
        {"windows": (4, 1), "global_ratio": 0.7},
    ],
    ("cost term", "cosine"): [{"clip": 0.1, "shift": "minimum"}, {"of": "keys@-1"}],
    ("cost term", "euclidean"): [{"of": "tower"}],
    ("budget allocator", "anchor-frames"): [{"every": 1}, {"every": 2}],
    ("cost term", "temporal"): [{"sigma_frames": 0.7, "max_gap_frames": 2}],
    ("keep decision", "threshold"): [{"tau": 0.9}],
    ("keep decision", "quantile"): [{"keep_ratio": 0.0}, {"keep_ratio": 1.0}],
    ("token ranker", "random"): [{"seed": 3}],
    ("layer reducer", "ranked"): [
        {"schedule": {1: 0.0}, "merger": "fold"},
        {"schedule": {1: 5, 2: 2}, "newlines": "rank", "merger": "fold", "cut_cache": True},
        {"schedule": {0.3: 0.7, 0.6: 0.3}, "merger": "recycle", "positions": "renumber"},
        {"schedule": {0.5: 0.4}, "quota": "group", "ranker": "position-free", "rounding": "floor"},
        {"schedule": {0.5: "adaptive"}, "ranker": "text-raters", "drop_at_least": 1},
        {"schedule": {0: 0.5, 0.9: 0.2}, "ranker": "next-layer", "rounding": "ceil"},
    ],
    ("stage", "frame"): [
        {
            "n_anchors": "budget",
            "cost": ["cosine", "spatial"],
            "coupler": "sinkhorn",
            "aggregator": "mass-normalised",
        },
        {"n_anchors": 2, "rest": "leave", "order": "selection"},
        {"scope": "segment", "sources": "all", "coupler": "nearest", "aggregator": "mean"},
    ],
    ("stage", "pool"): [{"stride": 1}, {"mode": "average"}],
    ("stage", "reference"): [{"scope": "video", "order": "score"}],
    ("stage", "segment"): [
        {
            "segmenter": {"name": "fixed-length", "segment_frames": 2},
            "coupler": "sinkhorn",
            "aggregator": "row-normalised",
        }
    ],
}
"""Settings beside the defaults. A strategy that is not named here runs with its defaults."""

INSIDE_KINDS = ("llm", "cache")
"""What works inside the LLM."""

REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("layer reducer", "ranked"): {"schedule": {0.5: 0.5}},
    ("stage", "frame"): {"selector": "random"},
    ("stage", "cut"): {"segmenter": "single"},
    ("stage", "segment"): {"segmenter": "single"},
    ("stage", "aot-released-segment"): {"segmenter": "single"},
    ("stage", "reference"): {"reference": "previous"},
    ("stage", "static"): {"rule": "pairwise"},
    ("stage", "group"): {"grouper": "components"},
    ("stage", "llm"): {"reducer": "framefusion"},
    ("stage", "cache"): {"pruner": "dycoke"},
    **plugins.rows("REQUIRED"),
}
"""Settings without a default, as a strategy's variants have them where they name no others."""

CUES: dict[str, int] = plugins.rows("CUES")
"""Width of the cues that plugins bring; 0 is one positive number a token."""

VARIANTS.update(plugins.rows("VARIANTS"))


def subjects(role: str) -> list[Any]:
    """Return a pytest parameter ``(entry, strategy)`` for every strategy and variant of a role."""
    import pytest

    return [
        pytest.param(
            entry,
            make(role, entry.name, **settings),
            id=label(entry, settings),
        )
        for entry in registry().entries(role)
        for settings in ({}, *VARIANTS.get((role, entry.name), ()))
    ]


def label(entry: Entry, settings: dict[str, Any]) -> str:
    """Return a readable test id."""
    return ",".join([entry.name, *(f"{key}={value}" for key, value in settings.items())])


def make(role: str, name: str, **settings: Any) -> Any:
    """Build one strategy."""
    required = REQUIRED.get((role, name), {})
    return build(role, strategy_config(role, {name_key(role): name, **required, **settings}))


video = partial(video_tokens, cues=CUES)
"""A video whose frames share a scene under noise, with the cues of plugins, too."""

cue = partial(drawn_cue, cues=CUES)


def pipeline_video(pipeline: Pipeline, **settings: Any) -> VisualTokens:
    """Return a video with the cues that a pipeline asks for."""
    return video(needs=pipeline.needs, **settings)


def kinds(name: str) -> set[str]:
    """Return what kinds of stages a preset has."""
    return {stage.kind for stage in load_config(name).stages.values()}


def loads(name: str) -> bool:
    """Return whether a preset can be loaded; test_pipelines says why one cannot."""
    try:
        load_config(name)
    except TokenredError:
        return False
    return True


LOADED = [name for name in registry().presets() if loads(name)]
UNREDUCED = {name for name in LOADED if kinds(name) <= {"pool", "llm", "cache"}}
# What acts inside the LLM alone is `vanilla` before it.
PRESETS = sorted(name for name in LOADED if name not in UNREDUCED or kinds(name) == {"pool"})
EXACT_PRESETS = [
    name for name in PRESETS if name not in UNREDUCED and load_config(name).budget.mode == "exact"
]


def parts_of(pipeline: Pipeline) -> Iterator[tuple[str, Any]]:
    """Yield (role, strategy) of everything that a pipeline is made of, before the LLM."""
    for stage in pipeline.config.stages.values():
        if stage.kind not in INSIDE_KINDS:
            yield from ((role, build(role, config)) for role, config in parts(stage))


def averages(pipeline: Pipeline) -> bool:
    """Return whether every kept token is an average of encoder tokens."""
    return all(getattr(part, "averages", True) for _, part in parts_of(pipeline))


def frame_by_frame(pipeline: Pipeline) -> bool:
    """Return whether, by what its parts say, a pipeline treats every frame alone."""
    stages = pipeline.config.stages.values()
    if {stage.kind for stage in stages} - {"frame", "pool", *INSIDE_KINDS}:
        return False
    frames = [stage for stage in stages if stage.kind == "frame"]
    own = all(stage.scope == stage.budget_scope == "frame" for stage in frames)
    return (
        own
        and all(stage.allocator.name == "equal" for stage in frames)
        and (not any(getattr(part, "looks_across_frames", False) for _, part in parts_of(pipeline)))
    )


def as_it_can(name: str, overrides: Mapping[str, Any] | None = None, **settings: Any) -> Pipeline:
    """Return a preset at its own budget, or the nearest one that it can meet on such a video."""
    pipeline = load_pipeline(name, overrides)
    try:
        pipeline.run(pipeline_video(pipeline, **settings))
    except BudgetError as error:
        named = nearest_ratio(error)
        return load_pipeline(name, {**(overrides or {}), "budget.retention_ratio": named})
    return pipeline


def enough(name: str, frames: int) -> dict[str, Any]:
    """Return a video that a preset takes; some released code refuses short and small ones."""
    video = {"frames": frames, "native_pool": "bilinear"}
    if load_config(name).budget.mode == "as-released":
        pipeline = load_pipeline(name)
        try:
            pipeline.run(pipeline_video(pipeline, **video))
        except InputError:
            return {**video, "frames": 16, "grid": (14, 14)}
    return video


def nearest_ratio(error: BudgetError) -> float:
    """Return the ratio that a budget error names."""
    found = re.search(r"nearest retention_ratio (0\.\d+|1\.0*)", str(error))
    assert found, error
    return float(found[1])


NATIVE_POOLS = ("bilinear", "average", "none")
GRIDS = ((1, 4), (2, 2), (3, 3), (5, 7), (6, 6), (9, 4))
RATIOS = st.one_of(
    st.sampled_from((0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 1 / 3, 0.5, 0.75, 1.0)),
    st.floats(0.001, 1.0),
)


@dataclass(frozen=True)
class Case:
    """A pipeline and a video for it, as plain data: what builds them may use ``random`` inside."""

    source: str | dict[str, Any]
    overrides: dict[str, Any]
    video: dict[str, Any]

    def build(self) -> tuple[Pipeline, VisualTokens]:
        """Return the pipeline and the tokens."""
        pipeline = load_pipeline(self.source, self.overrides)
        return pipeline, pipeline_video(pipeline, **self.video)


@st.composite
def preset_cases(draw: st.DrawFn, name: str) -> Case:
    """Draw a retention ratio and a video for a preset."""
    overrides = {} if name in UNREDUCED else {"budget.retention_ratio": draw(RATIOS)}
    return Case(name, overrides, draw(video_settings()))


@st.composite
def video_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a video of 1 to 12 frames on a small grid."""
    grid = draw(st.sampled_from(GRIDS))
    pools = NATIVE_POOLS if min(grid) > 1 else ("bilinear", "none")
    return {
        "frames": draw(st.integers(1, 12)),
        "grid": grid,
        "seed": draw(st.integers(0, 1000)),
        "native_pool": draw(st.sampled_from(pools)),
        "similar": draw(st.sampled_from((0.0, 0.5, 0.95))),
    }


NAMES = {role: registry().names(role) for role in ROLES}
EXACT = {
    exact: [
        entry.name
        for entry in registry().entries("keep decision")
        if make("keep decision", entry.name).exact == exact
    ]
    for exact in (True, False)
}


def kinds_like(kind: str) -> list[str]:
    """Return the stages that are of a kind, or derive from it."""
    base = registry().get("stage", kind).factory
    return [e.name for e in registry().entries("stage") if issubclass(e.factory, base)]


FRAME_KINDS = kinds_like("frame")
UNBUDGETED = {"prunevid-released-frame"}
"""Stages that spare frames, whatever the budget."""
REPEATING = {"rounds-frame"}
"""What does not average grows with every repetition, without end."""
SUMS = [
    entry.name
    for entry in registry().entries("aggregator")
    if not make("aggregator", entry.name).averages
]


def _names(role: str) -> st.SearchStrategy[Any]:
    """Draw a strategy of a role, by name; with its settings where it does not go without."""
    return st.sampled_from(NAMES[role]).map(
        lambda name: {"name": name, **REQUIRED[role, name]} if (role, name) in REQUIRED else name
    )


@st.composite
def transports(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the settings that all stages share that couple."""
    names = draw(st.lists(st.sampled_from(NAMES["cost term"]), min_size=1, max_size=3, unique=True))
    terms = [{"name": name, **REQUIRED.get(("cost term", name), {})} for name in names]
    aggregator: Any = draw(_names("aggregator"))
    if aggregator == "blend":
        aggregator = {"name": "blend", "second_cost": draw(st.sampled_from(names))}
    return {
        "cost": terms,
        "combine": draw(st.sampled_from(("sum", "product"))),
        "coupler": draw(_names("coupler")),
        "aggregator": aggregator,
    }


@st.composite
def frame_stages(draw: st.DrawFn, n_anchors: Any = None, **fixed: Any) -> dict[str, Any]:
    """Draw a frame stage; an old one of few settings every second time."""
    if n_anchors is None:
        n_anchors = draw(st.one_of(st.just("budget"), st.integers(1, 9), st.floats(0.01, 1)))
    stage = {"kind": "frame", "n_anchors": n_anchors, "selector": draw(_names("selector"))}
    stage |= draw(transports())
    if draw(st.booleans()):
        stage |= {
            "scope": draw(st.sampled_from(("frame", "segment"))),
            "sources": draw(st.sampled_from(("rest", "all"))),
            "mass": draw(st.sampled_from(("uniform", "size", "attention@-1"))),
            "order": draw(st.sampled_from(("raster", "stage", "selection"))),
            "rounding": draw(st.sampled_from(("floor", "ceil", "nearest"))),
            "budget_scope": draw(st.sampled_from(("frame", "video"))),
        }
        chosen = stage["selector"]
        name = chosen if isinstance(chosen, str) else chosen["name"]
        if any(map(is_of_frames, make("selector", name).needs)):
            stage["budget_scope"] = "frame"
        if fixed.get("part", "all") == "all" and stage["budget_scope"] == "frame":
            stage["allocator"] = draw(_names("budget allocator"))
        possible = set(FRAME_KINDS)
        if n_anchors == "budget":
            possible -= UNBUDGETED
        if fixed.get("rest", "drop") == "leave" or stage["aggregator"] in SUMS:
            possible -= REPEATING
        stage["kind"] = draw(st.sampled_from(sorted(possible)))
    return {**stage, **fixed}


@st.composite
def keep_rules(draw: st.DrawFn, exact: bool) -> dict[str, Any]:
    """Draw a keep rule; under an exact budget its decision is an exact one."""
    return {"score": draw(_names("keep score")), "decide": draw(st.sampled_from(EXACT[exact]))}


@st.composite
def segment_stages(draw: st.DrawFn, exact: bool = True) -> dict[str, Any]:
    """Draw a segment stage."""
    stage = {
        "kind": draw(st.sampled_from(kinds_like("segment"))),
        **draw(cuts()),
        "keep": draw(keep_rules(exact)),
    }
    return {**stage, **draw(transports())}


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, Any]:
    """Draw how a video is cut."""
    return {
        "segmenter": draw(_names("segmenter")),
        "descriptor": draw(st.sampled_from(("mean-feature", "pooler"))),
    }


@st.composite
def reference_stages(draw: st.DrawFn, exact: bool = True) -> dict[str, Any]:
    """Draw a reference stage."""
    stage = {
        "kind": "reference",
        "reference": draw(_names("frame reference")),
        "keep": draw(keep_rules(exact)),
        "scope": draw(st.sampled_from(("frame", "video"))),
        "order": draw(st.sampled_from(("raster", "score"))),
    }
    return {**stage, **draw(transports())}


SHAPES = (
    "frame",
    "frame-count",
    "frame-segment",
    "segment",
    "both",
    "pinned",
    "cut",
    "parts",
    "reference",
    "reference-frame",
)


@st.composite
def compositions(draw: st.DrawFn, mode: str = "exact") -> dict[str, Any]:
    """Draw a pipeline of any compatible stages and strategies."""
    exact = mode == "exact"
    pool = {"kind": "pool", "keep": draw(st.sampled_from((0.25, 0.5, 1.0)))}
    cut = {"kind": "cut", **draw(cuts())}
    possible = SHAPES if exact else (*SHAPES, "group")
    shape = draw(st.sampled_from([each for each in possible if _drawable(each)]))
    stages: dict[str, Any]
    if shape == "frame":
        stages = {"pool": pool, "frame": draw(frame_stages("budget"))}
    elif shape == "frame-count":
        stages = {"frame": draw(frame_stages()), "pool": {"kind": "pool", "keep": "count"}}
    elif shape == "frame-segment":
        stages = {
            "frame": draw(frame_stages()),
            "pool": pool,
            "segment": draw(segment_stages(exact)),
        }
    elif shape == "segment":
        stages = {"pool": pool, "segment": draw(segment_stages(exact))}
    elif shape == "pinned":
        first = draw(st.sampled_from(("budget * 3/4", "budget - 1", 1, 0.1)))
        stages = {
            "pool": pool,
            "first": draw(frame_stages(first, rest="leave")),
            "second": draw(frame_stages("budget")),
        }
    elif shape == "cut":
        stages = {"pool": pool, "cut": cut, "frame": draw(frame_stages("budget"))}
    elif shape == "parts":
        rule = draw(_names("static rule"))
        stages = {
            "pool": pool,
            "cut": cut,
            "static": {"kind": "static", "rule": rule, "aggregator": draw(_means())},
            "still": draw(frame_stages("budget" if exact else None, part="static")),
            "moving": draw(frame_stages("budget" if exact else None, part="dynamic")),
        }
    elif shape == "reference":
        stages = {"pool": pool, "cut": cut, "reference": draw(reference_stages(exact))}
    elif shape == "reference-frame":
        stages = {
            "pool": pool,
            "reference": draw(reference_stages(False)),
            "frame": draw(frame_stages("budget")),
        }
    elif shape == "group":
        group = {"kind": "group", "grouper": draw(_names("token grouper"))}
        group["merge"] = draw(st.sampled_from(("mean", "head")))
        stages = {"pool": pool, "group": group}
    else:
        stages = {
            "pool": pool,
            "frame": draw(frame_stages()),
            "segment": draw(segment_stages(exact)),
        }
    budget = {"retention_ratio": draw(RATIOS), "mode": mode}
    if not exact:
        budget["rounding"] = draw(st.sampled_from(("ceil", "floor", "nearest")))
    return {"budget": budget, "stages": stages}


def _means() -> st.SearchStrategy[Any]:
    """Draw an aggregator for tokens of one place, between which there are no costs to blend."""
    return _names("aggregator").filter(lambda name: name != "blend")


def _drawable(shape: str) -> bool:
    """Return whether somebody has registered what a shape cannot do without."""
    role = {"parts": "static rule", "group": "token grouper"}.get(shape)
    return role is None or bool(NAMES[role])


@st.composite
def composition_cases(draw: st.DrawFn, mode: str = "exact") -> Case:
    """Draw any pipeline and a video for it."""
    return Case(draw(compositions(mode)), {}, draw(video_settings()))
