"""Couplers by example; their contract and properties are in tests/property."""

import builtins
import sys
from typing import Any

import pytest
import torch

from tokenred import CapabilityError
from tokenred.interfaces import Coupler
from tokenred.slots import build, strategy_config

COST = torch.tensor([[0.1, 0.9], [0.2, 0.3], [0.8, 0.0]])
SOURCE, ANCHOR = torch.full((3,), 1 / 3), torch.full((2,), 1 / 2)


def couple(name: str, **settings: Any) -> torch.Tensor:
    coupler = build(Coupler, strategy_config("coupler", {"name": name, **settings}))
    return coupler.couple(COST, SOURCE, ANCHOR).plan


def test_cosine_is_a_soft_max_of_the_cost() -> None:
    wanted = torch.softmax(-COST / 0.2, -1) / 3
    torch.testing.assert_close(couple("cosine", temperature=0.2), wanted)


def test_nearest_is_one_hot() -> None:
    assert couple("nearest").gt(0).tolist() == [[True, False], [True, False], [False, True]]


def test_nearest_prefers_the_first_of_equals() -> None:
    coupler = build(Coupler, strategy_config("coupler", "nearest"))
    assert coupler.couple(torch.zeros(3, 2), SOURCE, ANCHOR).plan[:, 1].tolist() == [0, 0, 0]


def test_none_ships_nothing() -> None:
    assert not bool(couple("none").any())


def test_exact_is_sparse_and_cheapest() -> None:
    plan = couple("exact")
    torch.testing.assert_close(plan, torch.tensor([[1 / 3, 0], [1 / 6, 1 / 6], [0, 1 / 3]]))


def test_sinkhorn_lies_between_nearest_and_independent() -> None:
    value = {
        eps: float((couple("sinkhorn", epsilon=eps, tolerance=1e-6) * COST).sum())
        for eps in (0.02, 0.2, 50)
    }
    assert float((couple("exact") * COST).sum()) <= value[0.02] + 1e-6
    assert value[0.02] < value[0.2] < value[50]
    torch.testing.assert_close(
        couple("sinkhorn", epsilon=50.0), torch.full((3, 2), 1 / 6), atol=2e-3, rtol=0
    )


def test_coupling_remembers_what_it_was_given() -> None:
    for name in ("sinkhorn", "exact", "cosine", "nearest", "none"):
        coupler = build(Coupler, strategy_config("coupler", name))
        coupling = coupler.couple(COST, SOURCE, ANCHOR)
        assert coupling.cost is COST
        assert coupling.source_mass is SOURCE
        assert coupling.anchor_mass is ANCHOR
        assert dict(coupling.terms) == {}


def test_exact_without_pot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ot":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "ot", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CapabilityError, match=r"pip install 'tokenred\[pot\]'"):
        couple("exact")
