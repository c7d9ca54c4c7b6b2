"""What every aggregator has to satisfy."""

from dataclasses import fields, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import Aggregator
from tokenred.kernels.merge import apply_merge
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import SEEDS, couplings
from tokenred.types import Coupling


def weights_fit_the_coupling(aggregator: Aggregator) -> None:
    """Weights are finite and have the shapes of the plan and of its columns."""

    def body(coupling: Coupling) -> None:
        weights = aggregator.weights(coupling)
        plan = coupling.plan
        expect(weights.source.shape == plan.shape, f"source weights {weights.source.shape}")
        expect(
            weights.anchor.shape == (*plan.shape[:-2], plan.shape[-1]),
            f"anchor weights {weights.anchor.shape}",
        )
        expect_finite(weights.source, "the source weights")
        expect_finite(weights.anchor, "the anchor weights")

    for_all(couplings(batch=(2,)), body)


def without_merging_anchors_stay(aggregator: Aggregator) -> None:
    """``merges = False`` promises the identity; ``merges = True`` does merge."""

    def body(coupling: Coupling) -> None:
        weights = aggregator.weights(coupling)
        identity = bool((weights.anchor == 1).all()) and not bool(weights.source.any())
        expect(identity != aggregator.merges, f"merges is {aggregator.merges}, identity {identity}")

    for_all(couplings(), body)


def massless_sources_do_not_count(aggregator: Aggregator) -> None:
    """A source that sends nothing has no weight in any anchor."""

    def body(coupling: Coupling) -> None:
        mass, plan = coupling.source_mass.clone(), coupling.plan.clone()
        mass[0], plan[0] = 0, 0
        weights = aggregator.weights(replace(coupling, source_mass=mass, plan=plan))
        expect(not weights.source[0].any(), "a source without mass has weight")
        expect_finite(weights.anchor, "the anchor weights")

    for_all(couplings(), body)


def batch_equals_loop(aggregator: Aggregator) -> None:
    """The weights of a coupling do not depend on its batch mates."""

    def body(coupling: Coupling) -> None:
        together = aggregator.weights(coupling)
        for item in range(2):
            alone = aggregator.weights(_item(coupling, item))
            expect_close(together.source[item], alone.source, f"source weights of item {item}")
            expect_close(together.anchor[item], alone.anchor, f"anchor weights of item {item}")

    for_all(couplings(batch=(2,)), body)


def zero_strength_changes_nothing(aggregator: Aggregator) -> None:
    """An aggregator with a ``strength`` setting is the identity when that is zero."""
    config = getattr(aggregator, "config", None)
    if not hasattr(config, "strength"):
        return
    off: Any = type(aggregator)(config.model_copy(update={"strength": 0.0}))  # type: ignore[call-arg, union-attr]

    def body(coupling: Coupling) -> None:
        weights = off.weights(coupling)
        expect_close(weights.anchor, torch.ones_like(weights.anchor), "anchor weights")
        expect_close(weights.source, torch.zeros_like(weights.source), "source weights")

    for_all(couplings(), body)


def averages_stay_in_the_convex_hull(aggregator: Aggregator) -> None:
    """Weights are non-negative and sum to one, so every coordinate stays between its inputs."""

    def body(case: tuple[Coupling, int]) -> None:
        coupling, seed = case
        weights = aggregator.weights(coupling)
        expect((weights.anchor >= 0).all() and (weights.source >= 0).all(), "a negative weight")
        total = weights.anchor + weights.source.sum(-2)
        expect_close(total, torch.ones_like(total), "the weights of an anchor")
        anchors, sources = _features(coupling, seed)
        merged = apply_merge(anchors, sources, weights)
        inputs = torch.cat([anchors, sources])
        expect((merged <= inputs.amax(0) + 1e-5).all(), "an anchor left the hull upwards")
        expect((merged >= inputs.amin(0) - 1e-5).all(), "an anchor left the hull downwards")

    for_all(st.tuples(couplings(), SEEDS), body)


def constant_features_stay_constant(aggregator: Aggregator) -> None:
    """Averaging equal tokens changes nothing."""

    def body(coupling: Coupling) -> None:
        anchors = torch.full((coupling.plan.shape[-1], 3), 2.5)
        sources = torch.full((coupling.plan.shape[-2], 3), 2.5)
        merged = apply_merge(anchors, sources, aggregator.weights(coupling))
        expect_close(merged, anchors, "equal tokens")

    for_all(couplings(), body)


def weights_are_seen_not_to_sum_to_one(aggregator: Aggregator) -> None:
    """What says that it does not average moves equal tokens, at least at times."""
    moved = []

    def body(coupling: Coupling) -> None:
        weights = aggregator.weights(coupling)
        total = weights.anchor + weights.source.sum(-2)
        moved.append(float((total - 1).abs().max()) > 1e-3)

    for_all(couplings(), body)
    expect(any(moved), "all weights sum to one: it does average")


def _item(coupling: Coupling, item: int) -> Coupling:
    parts = {
        field.name: value[item]
        for field in fields(coupling)
        if field.name not in ("n_iter", "terms")
        and (value := getattr(coupling, field.name)) is not None
    }
    terms = {name: term[item] for name, term in coupling.terms.items()}
    return replace(coupling, **parts, terms=terms)


def _features(coupling: Coupling, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sources, anchors = coupling.plan.shape
    return torch.randn(anchors, 4, generator=generator), torch.randn(
        sources, 4, generator=generator
    )


_GENERAL = (
    weights_fit_the_coupling,
    without_merging_anchors_stay,
    massless_sources_do_not_count,
    batch_equals_loop,
    zero_strength_changes_nothing,
)
_SUMS = (weights_are_seen_not_to_sum_to_one,)
_AVERAGES = (averages_stay_in_the_convex_hull, constant_features_stay_constant)


def contract(aggregator: Aggregator) -> Bodies:
    """Return what holds for it."""
    return (*_GENERAL, *(_AVERAGES if aggregator.averages else _SUMS))
