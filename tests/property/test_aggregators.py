"""What aggregators promise beyond their contract: how far an anchor moves, and whereto."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from property.cases import make
from tokenred.kernels.merge import apply_merge
from tokenred.testing.strategies import couplings
from tokenred.types import Coupling

SIZES = st.integers(1, 12)


def coupled(n: int, m: int, seed: int, name: str = "sinkhorn", **settings_: object) -> Coupling:
    """Return a float64 coupling of random costs with uniform marginals."""
    cost = torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    masses = [torch.full((size,), 1 / size, dtype=torch.float64) for size in (n, m)]
    return make("coupler", name, **settings_).couple(cost, *masses)


@given(SIZES, SIZES, st.integers(0, 99))
@settings(max_examples=examples(20))
def test_plan_mass_moves_every_anchor_by_one_part_in_anchors_plus_one(
    n: int, m: int, seed: int
) -> None:
    """With an exact anchor marginal the paper's weights keep m/(m+1) of every anchor, always."""
    coupling = coupled(n, m, seed, max_iter=10)
    weights = make("aggregator", "mass-normalised").weights(coupling)
    wanted = torch.full((m,), m / (m + 1), dtype=torch.float64)
    torch.testing.assert_close(weights.anchor, wanted, atol=1e-9, rtol=0)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, 3, generator=generator, dtype=torch.float64)
    s = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    barycentre = m * coupling.plan.mT @ s
    torch.testing.assert_close(
        apply_merge(x, s, weights) - x, (barycentre - x) / (m + 1), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [("sinkhorn", {"last": "source"}), ("exact", {}), ("cosine", {}), ("nearest", {})],
)
def test_unit_mass_is_the_plan_times_the_number_of_sources(
    name: str, options: dict[str, object]
) -> None:
    coupling = coupled(9, 4, 0, name, **options)
    unit = make("aggregator", "mass-normalised", mass="unit").weights(coupling)
    wanted = make("aggregator", "mass-normalised", strength=9.0).weights(coupling)
    torch.testing.assert_close(unit.anchor, wanted.anchor)
    torch.testing.assert_close(unit.source, wanted.source)
    rows = make("aggregator", "row-normalised").weights(coupling)
    torch.testing.assert_close(unit.source, rows.source)  # the source marginal is exact


@given(couplings())
@settings(max_examples=examples(20))
def test_unit_mass_ships_one_token_a_source(coupling: Coupling) -> None:
    weights = make("aggregator", "mass-normalised", mass="unit").weights(coupling)
    shipped = weights.source / weights.anchor[None, :]
    torch.testing.assert_close(shipped.sum(-1), torch.ones(len(shipped)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mass-normalised", "row-normalised"])
@given(coupling=couplings(), strength=st.floats(0, 5))
@settings(max_examples=examples(15))
def test_strength_is_the_weight_of_what_arrives(
    name: str, coupling: Coupling, strength: float
) -> None:
    whole = make("aggregator", name).weights(coupling)
    part = make("aggregator", name, strength=strength).weights(coupling)
    ratio = whole.source / whole.anchor[None, :]
    torch.testing.assert_close(part.source / part.anchor[None, :], strength * ratio)


@given(couplings())
@settings(max_examples=examples(15))
def test_mean_is_the_mean_of_an_anchor_and_its_sources(coupling: Coupling) -> None:
    weights = make("aggregator", "mean").weights(coupling)
    choice = coupling.plan.argmax(-1)
    for anchor in range(coupling.plan.shape[1]):
        mine = (choice == anchor).float()
        share = 1 / (1 + mine.sum())
        torch.testing.assert_close(weights.source[:, anchor], mine * share)
        assert float(weights.anchor[anchor]) == pytest.approx(float(share))


@given(couplings(), st.floats(0, 1))
@settings(max_examples=examples(15))
def test_blend_lies_between_its_parts(coupling: Coupling, share: float) -> None:
    def weights(fraction: float) -> tuple[Tensor, Tensor]:
        found = make("aggregator", "blend", share=fraction).weights(coupling)
        return found.anchor, found.source

    first = make("aggregator", "mass-normalised").weights(coupling)
    nearest = make("coupler", "nearest").couple(
        coupling.terms["cosine"], coupling.source_mass, coupling.anchor_mass
    )
    second = make("aggregator", "mean").weights(nearest)
    torch.testing.assert_close(weights(0.0), (first.anchor, first.source))
    torch.testing.assert_close(weights(1.0), (second.anchor, second.source))
    mixed = [
        (1 - share) * a + share * b
        for a, b in ((first.anchor, second.anchor), (first.source, second.source))
    ]
    torch.testing.assert_close(list(weights(share)), mixed)


@given(couplings())
@settings(max_examples=examples(10))
def test_keep_only_is_the_identity(coupling: Coupling) -> None:
    weights = make("aggregator", "keep-only").weights(coupling)
    sources, anchors = coupling.plan.shape
    x, s = torch.randn(anchors, 3), torch.randn(sources, 3)
    assert torch.equal(apply_merge(x, s, weights), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_merging_rounds_once_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    coupling = coupled(30, 4, 0)
    coupling = replace(coupling, plan=coupling.plan.float())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator).to(dtype)
    s = torch.randn(30, 3, generator=generator).to(dtype)
    weights = make("aggregator", "mass-normalised", mass="unit").weights(coupling)
    merged = apply_merge(x, s, weights)
    assert merged.dtype == dtype
    wide = weights.anchor.double()[:, None] * x.double() + weights.source.double().mT @ s.double()
    error = (merged.double() - wide).abs()
    assert float((error / wide.abs().clamp_min(0.1)).max()) < torch.finfo(dtype).eps * (
        1 if dtype in (torch.float16, torch.bfloat16) else 30
    )
