"""Strategies are guests: whatever they do wrong is said, with their name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenred import (
    Aggregator,
    AnchorSelector,
    BudgetAllocator,
    CostTerm,
    Coupler,
    Coupling,
    InputError,
    KeepDecision,
    KeepScore,
    MergeWeights,
    Stage,
    VisualTokens,
    load_pipeline,
)
from tokenred.errors import StrategyError
from tokenred.pipeline.pipeline import Pipeline
from tokenred.slots import build, strategy_config
from tokenred.testing import video_tokens

INTRA = {"name": "local-global"}


def pipeline() -> Pipeline:
    return load_pipeline("aot-paper", {"budget.retention_ratio": 0.25})


def tokens_for(pipeline: Pipeline) -> VisualTokens:
    return video_tokens(6, (9, 9), needs=pipeline.needs, native_pool="bilinear")


def boom(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("boom\nin two lines")


def leave(*args: Any, **kwargs: Any) -> Any:
    raise SystemExit(3)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def mute(*args: Any, **kwargs: Any) -> Any:
    raise Mute


def anchors(change: Callable[[Tensor, VisualTokens], Any]) -> Callable[..., Any]:
    def select(self: Any, tokens: VisualTokens, n_anchors: int, *, generator: Any) -> Any:
        return change(torch.arange(n_anchors).expand(len(tokens.keep), -1), tokens)

    return select


SELECTORS = [
    (boom, "raised RuntimeError: boom in two lines"),
    (leave, "raised SystemExit: 3"),
    (mute, "raised Mute"),
    (anchors(lambda a, t: None), "gave None instead of anchors"),
    (anchors(lambda a, t: a[:, :-1]), "anchors a frame, asked for"),
    (anchors(lambda a, t: a.float()), "gave anchors of torch.float32, expected whole numbers"),
    (anchors(lambda a, t: a + 10**6), "gave an anchor out of range, valid are -1 to 80"),
    (anchors(lambda a, t: a[:1]), "gave anchors of shape (1, "),
    (anchors(lambda a, t: a + 0 * int(t.features.mul_(1).numel() < 0)), "wrote into a tensor"),
    (anchors(lambda a, t: t.cues["attention@-2"].zero_().topk(a.shape[1]).indices), "wrote into"),
]


@pytest.mark.parametrize(("select", "fault"), SELECTORS)
def test_a_selector_that_misbehaves_is_named(select: Any, fault: str) -> None:
    subject = pipeline()
    tokens = tokens_for(subject)
    subject.stages["intra_frame"].selector = type("Mine", (AnchorSelector,), {"select": select})()
    with pytest.raises(StrategyError, match="stage 'intra_frame': selector 'Mine' ") as caught:
        subject.run(tokens)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def plan(change: Callable[[Tensor], Any]) -> Callable[..., Any]:
    def couple(
        self: Any, cost: Tensor, source: Tensor, anchor: Tensor, forbidden: Any = None
    ) -> Any:
        given = change(source[..., None] * torch.ones_like(cost) / cost.shape[-1])
        return Coupling.direct(given, cost, source, anchor) if given is not None else None

    return couple


COUPLERS = [
    (boom, "raised RuntimeError"),
    (plan(lambda p: None), "gave None instead of a Coupling"),
    (plan(lambda p: p * torch.nan), "gave masses in a plan with NaN or infinity"),
    (plan(lambda p: p * 1e30), "sends more than its sources have"),
    (plan(lambda p: -p), "gave negative masses in a plan"),
]


@pytest.mark.parametrize("stage", ["intra_frame", "inter_frame"])
@pytest.mark.parametrize(("couple", "fault"), COUPLERS)
def test_a_coupler_that_misbehaves_is_named(stage: str, couple: Any, fault: str) -> None:
    subject = pipeline()
    mine = type("Mine", (Coupler,), {"couple": couple, "marginals": "source"})()
    subject.stages[stage].transport.coupler = mine
    with pytest.raises(StrategyError, match=f"stage '{stage}': coupler 'Mine' ") as caught:
        subject.run(tokens_for(subject))
    assert fault in str(caught.value)


def weights(change: Callable[[MergeWeights], Any]) -> Callable[..., Any]:
    def given(self: Any, coupling: Coupling) -> Any:
        return change(build(Aggregator, strategy_config(Aggregator, "mean")).weights(coupling))

    return given


def mean_weights(change: Callable[[MergeWeights], Any]) -> dict[str, Any]:
    return {"weights": weights(change)}


def decision(change: Callable[[Tensor], Any]) -> dict[str, Any]:
    def decide(self: Any, score: Tensor, *, keep: str, n_keep: int | None) -> Any:
        return change(score)

    return {"decide": decide, "exact": True}


OTHERS = [
    (
        "aggregator",
        Aggregator,
        mean_weights(lambda w: replace(w, source=w.source * torch.inf)),
        "gave weights with NaN or infinity",
    ),
    (
        "aggregator",
        Aggregator,
        mean_weights(lambda w: replace(w, anchor=w.anchor + 1)),
        "do not sum to one",
    ),
    (
        "score",
        KeepScore,
        {"score": lambda self, coupling: coupling.plan.sum(-1) / 0, "keep": "low"},
        "gave scores with NaN or infinity",
    ),
    (
        "decision",
        KeepDecision,
        decision(lambda score: torch.ones_like(score, dtype=torch.bool)),
        "did not keep exactly",
    ),
    ("decision", KeepDecision, decision(lambda score: score), "gave a decision of torch.float32"),
]


@pytest.mark.parametrize(("place", "role", "body", "fault"), OTHERS)
def test_whatever_misbehaves_is_named(
    place: str, role: Any, body: dict[str, Any], fault: str
) -> None:
    subject = pipeline()
    mine = type("Mine", (role,), body)()
    setattr(subject.stages["inter_frame"], place, mine)
    with pytest.raises(StrategyError, match=f"stage 'inter_frame': {role.role} 'Mine' ") as caught:
        subject.run(tokens_for(subject))
    assert fault in str(caught.value)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_numbers_that_no_frame_can_get_are_refused(bad: float) -> None:
    subject = load_pipeline("top-attention")
    body = lambda s, tokens, n: torch.full((len(tokens.keep),), bad)  # noqa: E731
    subject.stages["frame"].allocator = type("Mine", (BudgetAllocator,), {"allocate": body})()
    with pytest.raises(StrategyError, match=r"budget allocator 'Mine' .*gave "):
        subject.run(tokens_for(subject))


def test_costs_are_finite_and_of_every_pair() -> None:
    for change, fault in (
        (lambda c: c * torch.nan, "gave costs with NaN or infinity"),
        (lambda c: c[..., :1], "gave costs of shape"),
    ):
        subject = pipeline()
        transport = subject.stages["intra_frame"].transport
        (name, weight, real), *_ = transport.terms
        body = lambda s, a, b, real=real, change=change: change(real.cost(a, b))  # noqa: E731
        transport.terms = [(name, weight, type("Mine", (CostTerm,), {"cost": body})())]
        with pytest.raises(StrategyError, match="cost term 'Mine' ") as caught:
            subject.run(tokens_for(subject))
        assert fault in str(caught.value)


def test_a_stage_of_a_stranger_is_named() -> None:
    subject = pipeline()
    stages = {**subject.stages, "intra_frame": type("Mine", (Stage,), {"run": boom})()}
    subject.stages = stages
    with pytest.raises(
        StrategyError, match=r"stage 'intra_frame': stage 'Mine' .*raised RuntimeError"
    ):
        subject.run(tokens_for(subject))


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError, MemoryError])
def test_what_is_nobodys_fault_passes(error: type[BaseException]) -> None:
    def select(*args: Any, **kwargs: Any) -> Any:
        raise error

    subject = pipeline()
    subject.stages["intra_frame"].selector = type("Mine", (AnchorSelector,), {"select": select})()
    with pytest.raises(error):
        subject.run(tokens_for(subject))


def test_a_broken_promise_is_blamed_for_what_it_breaks_later() -> None:
    """NaN costs make the solver fail; the cost term is named, not the solver."""
    subject = pipeline()

    def cost(self: Any, sources: Any, anchors: Any) -> Tensor:
        shape = *sources.features.shape[:-1], anchors.features.shape[-2]
        return torch.full(shape, torch.nan)

    transport = subject.stages["intra_frame"].transport
    transport.terms = [("mine", 1.0, type("Mine", (CostTerm,), {"cost": cost})())]
    solver = type("Strict", (Coupler,), {"couple": boom, "marginals": "source"})
    transport.coupler = solver()
    with pytest.raises(StrategyError, match=r"cost term 'Mine' .*NaN"):
        subject.run(tokens_for(subject))


@pytest.mark.parametrize("name", ["aot-paper", "visionzip", "tome", "fastvid", "dycoke-ttm"])
@pytest.mark.parametrize("size", [1e17, 1e19, 1e30])
def test_large_features_are_right_or_refused(name: str, size: float) -> None:
    subject = load_pipeline(name, {"budget.retention_ratio": 0.5})
    tokens = video_tokens(8, (14, 14), needs=subject.needs, native_pool="bilinear", dim=8)
    tokens = replace(tokens, features=tokens.features * size)
    try:
        reduced = subject.run(tokens)
    except InputError as error:
        assert "squares overflow" in str(error) or "NaN or infinity" in str(error)  # noqa: PT017
    else:
        assert bool(torch.isfinite(reduced.features).all())
        assert size <= 1e17


def test_the_stage_that_spoils_features_is_named() -> None:
    """Sums in half precision overflow where averages would not."""
    stages = {
        "one": {"kind": "frame", "n_anchors": 20, "selector": "uniform-grid"},
        "two": {
            "kind": "frame",
            "n_anchors": 2,
            "selector": "uniform-grid",
            "coupler": "nearest",
            "aggregator": "sum",
        },
    }
    subject = load_pipeline({"budget": {"mode": "as-released"}, "stages": stages})
    tokens = video_tokens(2, (6, 6), native_pool="none")
    tokens = replace(tokens, features=torch.full_like(tokens.features, 6e4).half())
    with pytest.raises(InputError, match=r"stage 'two' makes .* infinity .*float16"):
        subject.run(tokens)
