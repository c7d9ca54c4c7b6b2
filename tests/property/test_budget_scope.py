"""One number for the whole video: any selector divides it among the frames as it chooses."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from property.cases import make, pipeline_video, subjects
from property.test_pipelines import check_sound
from tokenred import ConfigError, Pipeline, VisualTokens, load_pipeline
from tokenred.config import is_of_frames
from tokenred.slots import name_key
from tokenred.strategies.selectors.random import RandomSelector


def over_the_video(selector: Any, budget: Mapping[str, Any], **settings: Any) -> Pipeline:
    """Return a pipeline of one frame stage that chooses over all frames."""
    stage = {"kind": "frame", "selector": selector, "budget_scope": "video", **settings}
    return load_pipeline({"budget": budget, "stages": {"pool": {"kind": "pool"}, "a": stage}})


def as_given(entry: Any, strategy: Any) -> dict[str, Any]:
    return {**strategy.config.model_dump(), name_key(entry.role): entry.name}


@pytest.mark.parametrize(("entry", "selector"), subjects("selector"))
def test_any_selector_keeps_the_number_of_the_video(entry: Any, selector: Any) -> None:
    given = as_given(entry, selector)
    if any(map(is_of_frames, selector.needs)):
        pytest.skip("refused, see below")
    for ratio in (0.6, 0.75, 1.0):  # some cannot keep less than a half
        mode = "as-released" if selector.adaptive else "exact"
        pipeline = over_the_video(given, {"retention_ratio": ratio, "mode": mode})
        tokens = pipeline_video(pipeline, frames=5, grid=(4, 6), dim=20, similar=0.3)
        reduced = pipeline.run(tokens, trace=True)
        check_sound(pipeline, tokens, reduced)
        again = pipeline.run(tokens)
        assert torch.equal(reduced.frame_index, again.frame_index)
        assert torch.equal(reduced.token_index, again.token_index)


def test_the_choice_is_that_of_one_tall_frame() -> None:
    for name in ("top-attention", "density-peaks", "uniform-grid", "random"):
        pipeline = over_the_video(name, {"retention_ratio": 0.25})
        tokens = pipeline_video(pipeline, frames=5, grid=(4, 6))
        tall = VisualTokens.of(
            tokens.features.view(1, 120, -1),
            (20, 6),
            cues={name: cue.view(1, 120) for name, cue in tokens.cues.items()},
        )
        wanted = load_pipeline(pipeline.config, {"a.budget_scope": "frame"}).run(tall)
        reduced = pipeline.run(tokens)
        assert torch.equal(reduced.frame_index * 24 + reduced.token_index, wanted.token_index)


def attended(*counts: int) -> tuple[VisualTokens, torch.Tensor]:
    """Return frames of ten tokens, so many of which are the most attended ones of the video."""
    attention = torch.rand(len(counts), 10, generator=torch.Generator().manual_seed(0)) * 0.1
    for frame, count in enumerate(counts):
        attention[frame, :count] += 1
    features = torch.randn(len(counts), 10, 4, generator=torch.Generator().manual_seed(1))
    return VisualTokens.of(features, (2, 5), cues={"attention@-2": attention}), attention


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "selection"},
        {"coupler": "nearest", "aggregator": "mean"},
        {"coupler": "sinkhorn", "aggregator": "mass-normalised", "sources": "all"},
        {"coupler": "nearest", "aggregator": "mean", "scope": "segment"},
    ],
)
def test_a_frame_may_end_with_none(settings: dict[str, Any]) -> None:
    tokens, attention = attended(5, 0, 1)
    pipeline = over_the_video("top-attention", {"retention_ratio": 0.2}, **settings)
    reduced = pipeline.run(tokens, trace=True)
    assert reduced.realised.tokens_per_frame == (5, 0, 1)
    (report,) = (each for each in reduced.realised.stages if each.name == "a")
    merges, apart = "aggregator" in settings, settings.get("scope") != "segment"
    assert ("10 tokens of frames without anchors" in "".join(report.remarks)) == (merges and apart)
    if settings.get("scope") == "segment":
        assert float(reduced.mass.sum()) == 30
    if settings.get("order") == "selection":
        order = attention[0, reduced.token_index[reduced.frame_index == 0]]
        assert order.tolist() == sorted(order.tolist(), reverse=True)


def test_numbers_are_rounded_once_for_the_video() -> None:
    tokens, _ = attended(5, 0, 1)

    def kept(budget: dict[str, Any], **settings: Any) -> int:
        mode = {"mode": "as-released", **budget}
        return over_the_video("top-attention", mode, **settings).run(tokens).realised.n_tokens

    assert kept({"retention_ratio": 0.15, "rounding": "nearest"}) == 4  # 4.5, half to even
    assert kept({"retention_ratio": 0.15, "rounding": "floor"}) == 4
    assert kept({"retention_ratio": 0.15}) == 5  # rounded up, and not 2 in each of 3 frames
    assert kept({"retention_ratio": 0.01, "rounding": "nearest"}) == 1
    assert kept({"retention_ratio": 0.01, "rounding": "nearest", "at_least": 0}) == 0
    assert kept({"retention_ratio": 0.01, "at_least": 7}) == 7
    assert kept({}, n_anchors=2) == 6
    assert kept({}, n_anchors=0.15) == 4
    assert kept({"retention_ratio": 0.5}, n_anchors="budget - 2") == 9
    assert kept({"retention_ratio": 0.5}, n_anchors="budget * 1/2", rounding="floor") == 7
    exact = load_pipeline(
        over_the_video("top-attention", {"retention_ratio": 0.15, "mode": "exact"}).config
    )
    assert exact.run(tokens).realised.n_tokens == 6  # comparable: rounded up in every frame


def test_stages_divide_the_budget_of_the_video() -> None:
    tokens, attention = attended(5, 0, 1)
    first = {"kind": "frame", "selector": "top-attention", "rest": "leave"}
    first |= {"n_anchors": "budget * 1/2", "budget_scope": "video"}
    rest = {"kind": "frame", "selector": "uniform-grid"}
    for scope in ("frame", "video"):
        stages = {
            "pool": {"kind": "pool"},
            "first": first,
            "rest": {**rest, "budget_scope": scope},
        }
        pipeline = load_pipeline({"budget": {"retention_ratio": 0.4}, "stages": stages})
        reduced = pipeline.run(tokens)
        assert reduced.realised.n_tokens == 12
        kept = torch.zeros(3, 10, dtype=torch.bool)
        kept[reduced.frame_index, reduced.token_index] = True
        assert bool(kept.flatten()[attention.flatten().topk(6).indices].all())


@pytest.mark.parametrize("after", ["pool", "segment", "parts"])
def test_other_stages_follow(after: str) -> None:
    own = {"kind": "frame", "selector": "top-attention", "budget_scope": "video"}
    pool = {"kind": "pool", "keep": 0.25}
    stages: dict[str, Any] = {"a": {**own, "n_anchors": 3}, "pool": {**pool, "keep": "count"}}
    if after == "segment":
        keep = {"kind": "segment", "segmenter": {"name": "fixed-count", "n_segments": 2}}
        stages = {"a": {**own, "n_anchors": 6}, "pool": pool, "s": keep}
    if after == "parts":
        parts = {f"{part}s": {**own, "part": part} for part in ("static", "dynamic")}
        stages = {"pool": pool, "still": {"kind": "static", "rule": "pairwise"}, **parts}
    pipeline = load_pipeline({"budget": {"retention_ratio": 0.25}, "stages": stages})
    tokens = pipeline_video(pipeline, frames=6, grid=(8, 8), native_pool="bilinear", similar=0.9)
    check_sound(pipeline, tokens, pipeline.run(tokens, trace=True))


def test_what_was_dropped_before_is_no_part_of_the_pool() -> None:
    tokens, _ = attended(5, 0, 1)
    keep = tokens.keep.clone()
    keep[0, :4] = False
    pipeline = over_the_video("top-attention", {"retention_ratio": 0.2})
    assert not pipeline.run(replace(tokens, keep=keep)).token_index[:1].lt(4).any()
    few = replace(tokens, keep=torch.arange(10).expand(3, 10) < 1)
    counted = over_the_video("top-attention", {"mode": "as-released"}, n_anchors=2)
    with pytest.raises(Exception, match="6 anchors asked for, the video has 3 tokens left"):
        counted.run(few)


def test_what_divides_among_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^stages.a.allocator: .*'anchor-frames'; use allocator"):
        over_the_video("random", {}, allocator="anchor-frames")


def test_what_reads_something_of_each_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RandomSelector, "needs", frozenset({"pooler"}))
    with pytest.raises(ConfigError, match=r"^stages.a.budget_scope: selector 'random' reads"):
        over_the_video("random", {})


@pytest.mark.parametrize(
    ("setting", "text"),
    [({"rounding": "nearest"}, "'nearest' is for"), ({"at_least": 0}, "at_least: 0 is for")],
)
def test_exact_budgets_are_rounded_up(setting: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        over_the_video("random", {"retention_ratio": 0.2, **setting})


def test_rounds_halve_the_whole_video() -> None:
    rounds = make("stage", "rounds-frame", selector="uniform-grid", budget_scope="video")
    stages = {"pool": {"kind": "pool"}, "a": rounds.config.model_dump()}
    pipeline = load_pipeline({"budget": {"retention_ratio": 0.1}, "stages": stages})
    tokens = pipeline_video(pipeline, frames=4)
    check_sound(pipeline, tokens, pipeline.run(tokens))
