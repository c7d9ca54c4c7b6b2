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
}
"""Settings beside the defaults. A strategy that is not named here runs with its defaults."""


def subjects(role: str) -> list[Any]:
    """Return a pytest parameter ``(entry, strategy)`` for every strategy and variant of a role."""
    import pytest

    return [
        pytest.param(
            entry,
            build(role, strategy_config(role, {"name": entry.name, **settings})),
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
    return build(role, strategy_config(role, {"name": name, **settings}))


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


PRESETS = sorted(registry().presets())
UNREDUCED = {
    name
    for name in PRESETS
    if all(stage.kind == "pool" for stage in load_pipeline(name).config.stages.values())
}
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
