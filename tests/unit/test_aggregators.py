"""Aggregators by example; their contract and properties are in tests/property."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tokenred import ConfigError, Coupling, MergeWeights
from tokenred.interfaces import Aggregator
from tokenred.slots import build, strategy_config

PLAN = torch.tensor([[0.3, 0.0], [0.1, 0.2], [0.0, 0.4]])
COUPLING = Coupling.direct(
    PLAN, torch.zeros(3, 2), torch.tensor([0.3, 0.3, 0.4]), torch.tensor([0.4, 0.6])
)


def weights(name: str, coupling: Coupling = COUPLING, **settings: Any) -> MergeWeights:
    config = strategy_config("aggregator", {"name": name, **settings})
    return build(Aggregator, config).weights(coupling)


def test_mass_normalised_is_equation_11() -> None:
    found = weights("mass-normalised", strength=2.0)
    received = 2 * torch.tensor([0.4, 0.6])
    torch.testing.assert_close(found.anchor, 1 / (1 + received))
    torch.testing.assert_close(found.source, 2 * PLAN / (1 + received))


def test_row_normalised_is_equation_16() -> None:
    found = weights("row-normalised")
    p = torch.tensor([[1.0, 0.0], [1 / 3, 2 / 3], [0.0, 1.0]])
    torch.testing.assert_close(found.source, p / (1 + p.sum(0)))


def test_mean_hardens_soft_plans() -> None:
    found = weights("mean")
    torch.testing.assert_close(found.anchor, torch.tensor([1 / 2, 1 / 3]))
    torch.testing.assert_close(found.source, torch.tensor([[1 / 2, 0], [0, 1 / 3], [0, 1 / 3]]))


def test_blend_needs_the_cost_term_it_blends_with() -> None:
    with_terms = replace(COUPLING, terms={"spatial": torch.zeros(3, 2), "mine": torch.zeros(3, 2)})
    with pytest.raises(ConfigError) as caught:
        weights("blend", with_terms)
    assert str(caught.value) == (
        "aggregator.second_cost: the stage has no cost term 'cosine' to blend with; it has: "
        "mine, spatial"
    )
    with pytest.raises(ConfigError, match="it has: none"):
        weights("blend")


def test_blend_takes_its_second_part_from_another_coupling() -> None:
    term = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])  # all nearest to the first anchor
    found = weights("blend", replace(COUPLING, terms={"cosine": term}), share=1.0)
    torch.testing.assert_close(found.anchor, torch.tensor([1 / 4, 1.0]))


def test_an_empty_plan_changes_nothing() -> None:
    empty = replace(COUPLING, plan=torch.zeros(3, 2))
    for name in ("mass-normalised", "row-normalised", "mean", "keep-only"):
        found = weights(name, empty)
        assert found.anchor.tolist() == [1.0, 1.0]
        assert not bool(found.source.any())
