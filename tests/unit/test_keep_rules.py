"""Keep rules across frames by example; their properties are in tests/property."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tokenred import Coupling
from tokenred.interfaces import Coupler, KeepDecision, KeepScore
from tokenred.slots import build, strategy_config

SCORE = torch.tensor([0.5, 0.2, 0.9, 0.2, 0.7])


def kept(name: str, keep: str = "low", n_keep: int | None = None, **settings: Any) -> list[int]:
    decision = build(KeepDecision, strategy_config("keep decision", {"name": name, **settings}))
    return decision.decide(SCORE, keep=keep, n_keep=n_keep).nonzero()[:, 0].tolist()


def test_count_breaks_ties_in_raster_order() -> None:
    assert kept("count", n_keep=1) == [1]
    assert kept("count", n_keep=2) == [1, 3]
    assert kept("count", "high", n_keep=2) == [2, 4]
    assert kept("count", n_keep=0) == []
    assert kept("count", n_keep=5) == [0, 1, 2, 3, 4]


def test_threshold_is_strict_at_both_ends() -> None:
    assert kept("threshold", tau=0.5) == [1, 3]
    assert kept("threshold", "high", tau=0.5) == [2, 4]


def test_quantile_of_five_scores() -> None:
    assert kept("quantile", keep_ratio=0.5) == [1, 3]  # below the median 0.5
    assert kept("quantile", keep_ratio=0.25) == []  # the quantile is 0.2, which ties
    assert kept("quantile", "high", keep_ratio=0.5) == [2, 4]
    assert kept("quantile", keep_ratio=1.0) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("name", "wanted"), [("max-probability", [0.75, 0.5, 0.0]), ("expected-cost", [0.25, 1.5, 0.0])]
)
def test_scores_by_hand(name: str, wanted: list[float]) -> None:
    plan = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.0, 0.0]])
    cost = torch.tensor([[0.0, 1.0], [1.0, 2.0], [5.0, 5.0]])
    coupling = Coupling.direct(plan, cost, torch.tensor([0.4, 0.4, 0.0]), torch.tensor([0.5, 0.3]))
    score = build(KeepScore, strategy_config("keep score", name)).score(coupling)
    torch.testing.assert_close(score, torch.tensor(wanted))


def test_what_may_go_nowhere_is_represented_worst() -> None:
    apart = torch.tensor([[False, False], [True, True], [False, True]])
    cost, mass = torch.tensor([[0.2, 0.4], [0.0, 0.0], [0.3, 0.0]]), torch.full((3,), 1 / 3)
    coupler = build(Coupler, strategy_config("coupler", "nearest"))
    coupling = coupler.couple(cost, mass, torch.full((2,), 0.5), apart)
    score = build(KeepScore, strategy_config("keep score", "expected-cost"))
    coupling = replace(coupling, forbidden=apart)
    assert score.score(coupling).argsort(descending=True).tolist() == [1, 2, 0]
