"""Short cuts that must not show: sources that are not gathered, problems solved side by side."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from property.cases import PRESETS, pipeline_video
from tokenred import ReducedTokens, Segments, TokenredError, VisualTokens, load_pipeline
from tokenred.pipeline.flow import Flow, Transport
from tokenred.strategies.segmenters import SingleSegmenter
from tokenred.testing.strategies import SEEDS

COUPLERS: tuple[Any, ...] = (
    {"name": "sinkhorn", "max_iter": 20, "stop": "none"},
    "nearest",
    {"name": "cosine", "temperature": 0.1},
)

MEAN = {
    "kind": "frame",
    "selector": "uniform-grid",
    "coupler": "nearest",
    "aggregator": "mean",
}


@contextmanager
def the_long_way(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, name, property(lambda self: False))
        yield


def outcome(config: str | dict[str, Any], tokens: VisualTokens) -> ReducedTokens | str:
    try:
        return load_pipeline(config).run(tokens, trace=True)
    except TokenredError as error:
        return str(error)


def expect_same(first: ReducedTokens | str, second: ReducedTokens | str) -> None:
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
        return
    assert torch.equal(first.frame_index, second.frame_index)
    assert torch.equal(first.token_index, second.token_index)
    torch.testing.assert_close(first.features, second.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first.mass, second.mass, atol=1e-5, rtol=1e-5)
    assert first.trace is not None
    assert second.trace is not None
    torch.testing.assert_close(
        first.trace.to_dense(), second.trace.to_dense(), atol=1e-5, rtol=1e-5
    )


def video(frames: int, seed: int, share: float, empty: bool = False) -> VisualTokens:
    """Return a video of which tokens are missing, unequally many in each frame."""
    tokens = pipeline_video(load_pipeline("vanilla"), frames=frames, grid=(4, 5), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(tokens.keep.shape, generator=generator) < share
    keep[:, 3] |= not empty
    return replace(tokens, keep=keep)


@given(
    seed=SEEDS,
    share=st.sampled_from((0.6, 0.9, 1.0)),
    coupler=st.sampled_from(COUPLERS),
    sources=st.sampled_from(("rest", "all")),
    mass=st.sampled_from(("uniform", "size")),
)
@settings(max_examples=examples(25))
def test_passing_tokens_by_is_leaving_them_out(
    seed: int, share: float, coupler: Any, sources: str, mass: str
) -> None:
    stage = {
        "kind": "rounds-frame",
        "n_anchors": 2,
        "selector": "random",
        "cost": ["cosine", {"name": "spatial", "weight": 0.5}, "temporal"],
        "coupler": coupler,
        "aggregator": {"name": "blend", "first": {"name": "mass-normalised", "mass": "unit"}},
        "sources": sources,
        "mass": mass,
        "max_drop": 0.5,
    }
    config = {"budget": {"mode": "as-released"}, "stages": {"frame": stage}}
    tokens = video(3, seed, share)
    if bool((tokens.keep.sum(-1) < 2).any()):
        return
    short = outcome(config, tokens)
    with the_long_way("pairwise"):
        expect_same(short, outcome(config, tokens))


@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    share=st.sampled_from((0.3, 0.7, 1.0)),
    coupler=st.sampled_from(COUPLERS),
    decide=st.sampled_from(("count", {"name": "quantile", "keep_ratio": 0.3}, "threshold")),
    kind=st.sampled_from(("segment", "aot-released-segment")),
    aggregator=st.sampled_from(("row-normalised", {"name": "sum", "own": "mass"}, "keep-only")),
    shift=st.sampled_from(("none", "minimum")),
)
@settings(max_examples=examples(40))
def test_segments_side_by_side_are_segments_one_by_one(
    seed: int,
    lengths: list[int],
    share: float,
    coupler: Any,
    decide: Any,
    kind: str,
    aggregator: Any,
    shift: str,
) -> None:
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    stage = {
        "kind": kind,
        "segmenter": "single",
        "cost": [{"name": "cosine", "shift": shift}],
        "coupler": coupler,
        "keep": {"decide": decide},
        "aggregator": aggregator,
    }
    exact = decide == "count"
    budget = {"mode": "exact" if exact else "as-released", "retention_ratio": 0.3}
    config = {"budget": budget, "stages": {"segment": stage}}
    tokens = video(bounds[-1], seed, share)
    with pytest.MonkeyPatch.context() as patch:
        cut = Segments(tuple(bounds))
        patch.setattr(SingleSegmenter, "segment", lambda self, *_, **__: cut)
        short = outcome(config, tokens)
        with the_long_way("batches"):
            expect_same(short, outcome(config, tokens))


@given(
    seed=SEEDS,
    share=st.sampled_from((0.3, 0.8, 1.0)),
    reference=st.sampled_from(("first", "previous")),
    coupler=st.sampled_from(COUPLERS),
    aggregator=st.sampled_from(("mean", "keep-only")),
    scope=st.sampled_from(("frame", "video")),
)
@settings(max_examples=examples(20))
def test_frames_compared_at_once_are_frames_compared_one_by_one(
    seed: int, share: float, reference: str, coupler: Any, aggregator: str, scope: str
) -> None:
    stage = {
        "kind": "reference",
        "reference": reference,
        "coupler": coupler,
        "keep": {"score": "expected-cost", "decide": {"name": "share", "drop_ratio": 0.5}},
        "aggregator": aggregator,
        "scope": scope,
    }
    config = {"budget": {"mode": "as-released"}, "stages": {"reference": stage}}
    tokens = video(4, seed, share)
    short = outcome(config, tokens)
    with the_long_way("batches"):
        expect_same(short, outcome(config, tokens))


@contextmanager
def one_at_a_time() -> Iterator[list[int]]:
    """Solve every problem on its own; yield how many there were, each time it was asked."""
    asked: list[int] = []

    def chunks(flow: Flow, n_items: int, n_values: int) -> list[slice]:
        asked.append(n_items)
        return [slice(i, i + 1) for i in range(n_items)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flow, "chunks", chunks)
        yield asked


@pytest.mark.parametrize("name", PRESETS)
def test_solving_in_parts_is_solving_all_at_once(name: str) -> None:
    tokens = pipeline_video(load_pipeline(name), frames=6, grid=(8, 8), seed=1)
    whole = outcome(name, tokens)
    with one_at_a_time():
        expect_same(whole, outcome(name, tokens))


def test_gradients_pass_through_parts() -> None:
    pipeline = load_pipeline("aot-paper")
    tokens = pipeline_video(pipeline, frames=6, grid=(8, 8), seed=1)
    gradients = []
    for cut in (nullcontext([]), one_at_a_time()):
        features = tokens.features.clone().requires_grad_()
        with cut as asked:
            reduced = pipeline.run(replace(tokens, features=features))
        (gradient,) = torch.autograd.grad(reduced.features.square().sum(), features)
        gradients.append(gradient)
    assert asked == [6, 2]  # frames, segments
    assert bool(gradients[0].any())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.4, 1.0], ids=["few sources", "many sources"])
def test_frames_that_have_no_anchor_are_passed_by(share: float) -> None:
    stages = {
        "first": {**MEAN, "n_anchors": 3, "rest": "leave"},
        "second": {**MEAN, "n_anchors": 2},
    }
    config = {"budget": {"mode": "as-released"}, "stages": stages}
    tokens = video(3, 0, share)
    keep = tokens.keep.clone()
    keep[1] = torch.arange(keep.shape[1]) < 3
    tokens = replace(tokens, keep=keep)
    whole = outcome(config, tokens)
    assert not isinstance(whole, str)
    assert whole.realised.tokens_per_frame == (5, 3, 5)
    with one_at_a_time() as asked:
        expect_same(whole, outcome(config, tokens))
    assert asked == [3, 3]


def test_a_run_copies_the_features_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    merge = Flow.merge

    def spy(flow: Flow, *merges: Any) -> None:
        merge(flow, *merges)
        seen.append(flow.tokens.features.data_ptr())

    monkeypatch.setattr(Flow, "merge", spy)
    stages = {
        "first": {**MEAN, "n_anchors": 8},
        "second": {**MEAN, "n_anchors": 4},
        "third": {"kind": "reference", "coupler": "nearest", "aggregator": "mean"},
    }
    tokens = video(3, 0, 1.0)
    before = tokens.features.clone()
    load_pipeline({"budget": {"retention_ratio": 0.1}, "stages": stages}).run(tokens)
    assert len(seen) >= 3
    assert len(set(seen)) == 1
    assert seen[0] != tokens.features.data_ptr()
    assert torch.equal(tokens.features, before)
