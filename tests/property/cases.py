"""What the property tests run over: every registered strategy, in several settings, and videos."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred import Pipeline, VisualTokens, load_pipeline, registry
from tokenred.config import build, strategy_config
from tokenred.registry import ROLES, Entry

VARIANTS: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("coupler", "sinkhorn"): [
        {"stop": "none", "max_iter": 30},
        {"stop": "scaling", "tolerance": 0.01, "last": "source"},
        {"stop": "scaling-batch", "tolerance": 0.01},
        {"domain": "log", "epsilon": 0.5, "last": "source"},
        {"epsilon": 0.02, "max_iter": 3},
    ],
    ("coupler", "cosine"): [{"temperature": 2.0}],
    ("aggregator", "mass-normalised"): [{"mass": "unit"}, {"strength": 3.0}],
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
    ("selector", "local-global"): [
        {"global_ratio": 0.0},
        {"global_ratio": 1.0},
        {"windows": (4, 1), "global_ratio": 0.7},
    ],
    ("cost term", "cosine"): [{"clip": 0.1, "shift": "minimum"}],
    ("cost term", "temporal"): [{"sigma_frames": 0.7, "max_gap_frames": 2}],
    ("keep decision", "threshold"): [{"tau": 0.9}],
    ("keep decision", "quantile"): [{"keep_ratio": 0.0}, {"keep_ratio": 1.0}],
    ("token ranker", "text-raters"): [{"heads": 1}, {"divide_rotary": True}],
    ("token ranker", "random"): [{"seed": 3}],
    ("layer merger", "recycle"): [{"share": 1.0, "tokens_per_cluster": 2}, {"share": 0.0}],
    ("layer reducer", "ranked"): [
        {"schedule": {1: 0.0}, "merger": "fold"},
        {"schedule": {1: 5, 2: 2}, "newlines": "rank", "merger": "fold", "cut_cache": True},
        {"schedule": {0.3: 0.7, 0.6: 0.3}, "merger": "recycle", "positions": "renumber"},
        {"schedule": {0.5: 0.4}, "quota": "group", "ranker": "position-free", "rounding": "floor"},
        {"schedule": {0.5: "adaptive"}, "ranker": "text-raters", "drop_at_least": 1},
        {"schedule": {0: 0.5, 0.9: 0.2}, "ranker": "next-layer", "rounding": "ceil"},
    ],
    ("layer reducer", "framefusion"): [
        {"cost": 0.9, "similarity": 0.2, "newlines": "merge"},
        {"cost": 0.1, "assumed_layers": 28},
        {"merge_at_least": 0.0, "similarity": -1.0},
    ],
    ("cache pruner", "dycoke"): [
        {"layer": 1, "drop_ratio": 1.0, "unchanged": "all"},
        {"similarity": -1.0, "spare_last": True},
    ],
}
"""Settings beside the defaults. A strategy that is not named here runs with its defaults."""

INSIDE_ROLES = ("token ranker", "layer merger", "layer reducer", "cache pruner")
INSIDE_KINDS = ("llm", "cache")
"""What works inside the LLM. Its settings have a table of their own: test_every_inside_field."""

REQUIRED: dict[tuple[str, str], dict[str, Any]] = {
    ("layer reducer", "ranked"): {"schedule": {0.5: 0.5}},
}
"""Settings without a default, as a strategy's variants have them where they name no others."""


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
    return build(role, strategy_config(role, {"name": name, **required, **settings}))


def video(
    frames: int = 4,
    grid: tuple[int, int] = (6, 6),
    *,
    needs: Iterable[str] = (),
    seed: int = 0,
    dim: int = 5,
    native_pool: str = "none",
    similar: float = 0.5,
) -> VisualTokens:
    """Return a video whose frames share a scene (``similar`` is its weight) under noise."""
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    scene = torch.randn(tokens, dim, generator=generator)
    noise = torch.randn(frames, tokens, dim, generator=generator)
    cues = {name: cue(name, frames, tokens, seed) for name in sorted(needs)}
    return VisualTokens.of(
        similar * scene + (1 - similar) * noise, grid, cues=cues, native_pool=native_pool
    )


def cue(name: str, frames: int, tokens: int, seed: int) -> Tensor:
    """Return a cue as a vision tower would give it; cues of different names are different."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    if name == "pooler":
        return torch.randn(frames, 4, generator=generator)
    if name.startswith("keys@"):
        return torch.randn(frames, tokens, 3, generator=generator)
    received = torch.rand(frames, tokens, generator=generator) ** 3 + 1e-4
    return received / received.sum(-1, keepdim=True)


def pipeline_video(pipeline: Pipeline, **settings: Any) -> VisualTokens:
    """Return a video with the cues that a pipeline asks for."""
    return video(needs=pipeline.needs, **settings)


UNREDUCED = {
    name
    for name in registry().presets()
    if not {"frame", "segment"} & {s.kind for s in load_pipeline(name).config.stages.values()}
}
# What acts inside the LLM alone is `vanilla` before it.
PRESETS = sorted(
    name
    for name in registry().presets()
    if name not in UNREDUCED or not load_pipeline(name).inside_llm
)
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
        entry.name for entry in registry().entries("keep decision") if entry.factory.exact == exact
    ]
    for exact in (True, False)
}


def _names(role: str) -> st.SearchStrategy[str]:
    return st.sampled_from(NAMES[role])


@st.composite
def transports(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the settings that frame and segment stages share."""
    terms = draw(st.lists(_names("cost term"), min_size=1, max_size=3, unique=True))
    aggregator: Any = draw(_names("aggregator"))
    if aggregator == "blend":
        aggregator = {"name": "blend", "second_cost": draw(st.sampled_from(terms))}
    return {
        "cost": terms,
        "combine": draw(st.sampled_from(("sum", "product"))),
        "coupler": draw(_names("coupler")),
        "aggregator": aggregator,
    }


@st.composite
def frame_stages(draw: st.DrawFn, n_anchors: Any = None) -> dict[str, Any]:
    """Draw a frame stage."""
    if n_anchors is None:
        n_anchors = draw(st.one_of(st.just("budget"), st.integers(1, 9), st.floats(0.01, 1)))
    stage = {"kind": "frame", "n_anchors": n_anchors, "selector": draw(_names("selector"))}
    return {**stage, **draw(transports())}


@st.composite
def segment_stages(draw: st.DrawFn, exact: bool = True) -> dict[str, Any]:
    """Draw a segment stage; under an exact budget its decision is an exact one."""
    keep = {"score": draw(_names("keep score")), "decide": draw(st.sampled_from(EXACT[exact]))}
    stage = {
        "kind": "segment",
        "segmenter": draw(_names("segmenter")),
        "descriptor": draw(st.sampled_from(("mean-feature", "pooler"))),
        "keep": keep,
        "emit": draw(st.sampled_from(("merged", "merged-and-original"))),
        "order": draw(st.sampled_from(("temporal", "segment"))),
    }
    return {**stage, **draw(transports())}


@st.composite
def compositions(draw: st.DrawFn, mode: str = "exact") -> dict[str, Any]:
    """Draw a pipeline of any compatible stages and strategies."""
    exact = mode == "exact"
    pool = {"kind": "pool", "keep": draw(st.sampled_from((0.25, 0.5, 1.0)))}
    shape = draw(st.sampled_from(("frame", "frame-count", "frame-segment", "segment", "both")))
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
    else:
        stages = {
            "pool": pool,
            "frame": draw(frame_stages()),
            "segment": draw(segment_stages(exact)),
        }
    budget = {"retention_ratio": draw(RATIOS), "mode": mode}
    return {"budget": budget, "stages": stages}


@st.composite
def composition_cases(draw: st.DrawFn, mode: str = "exact") -> Case:
    """Draw any pipeline and a video for it."""
    return Case(draw(compositions(mode)), {}, draw(video_settings()))
