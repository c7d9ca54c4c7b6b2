"""Gradients of Sinkhorn: through the sweeps and at the solution."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenred.kernels.sinkhorn import Side, sinkhorn


def problem(*, padded: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    source = 0.2 + torch.rand(2, 5, generator=generator, dtype=torch.float64)
    anchor = 0.2 + torch.rand(2, 3, generator=generator, dtype=torch.float64)
    if padded:
        source[1, 3:], anchor[1, 2:] = 0, 0
    return cost, source / source.sum(-1, keepdim=True), anchor / anchor.sum(-1, keepdim=True)


def weigh(plan: Tensor) -> Tensor:
    direction = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=plan.dtype)
    return (plan * direction).sum((-2, -1))


def checks(given: tuple[Tensor, ...], **options: Any) -> bool:
    _, source, anchor = given
    real_source, real_anchor = source > 0, anchor > 0

    def value(cost: Tensor, source: Tensor, anchor: Tensor) -> Tensor:
        masses = source.where(real_source, 0.0), anchor.where(real_anchor, 0.0)
        return weigh(sinkhorn(cost, *masses, epsilon=0.3, **options).plan)

    return torch.autograd.gradcheck(
        value, tuple(t.clone().requires_grad_() for t in given), fast_mode=True
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("last", ["anchor", "source"])
@pytest.mark.parametrize("domain", ["kernel", "absorbed", "log"])
@pytest.mark.parametrize("acceleration", ["none", "chebyshev"])
def test_unrolled(padded: bool, last: str, domain: str, acceleration: str) -> None:
    """Of cost and both masses, far from convergence."""
    options = {"stop": "none", "max_iter": 5, "domain": domain, "acceleration": acceleration}
    assert checks(problem(padded=padded), last=last, **options)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("last", ["anchor", "source"])
@pytest.mark.parametrize("domain", ["kernel", "log"])
def test_implicit(padded: bool, last: str, domain: str) -> None:
    options = {"tolerance": 1e-11, "max_iter": 300, "domain": domain, "acceleration": "none"}
    assert checks(problem(padded=padded), last=last, gradient="implicit", **options)


@pytest.mark.parametrize("epsilon", [0.5, 0.1, 0.02])
def test_implicit_is_the_limit_of_unrolled(epsilon: float) -> None:
    gradients = []
    for gradient in ("unrolled", "implicit"):
        inputs = [part.clone().requires_grad_() for part in problem()]
        options = {"epsilon": epsilon, "tolerance": 1e-10, "max_iter": 3000}
        weigh(sinkhorn(*inputs, gradient=gradient, **options).plan).sum().backward()  # type: ignore[arg-type]
        gradients.append([part.grad for part in inputs])
    for unrolled, implicit in zip(*gradients):
        torch.testing.assert_close(implicit, unrolled, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("stop", ["none", "residual", "scaling"])
@pytest.mark.parametrize("epsilon", [0.3, 0.01])
def test_a_graph_changes_no_value(stop: str, epsilon: float) -> None:
    cost, *masses = (part.float() for part in problem(padded=True))
    options = {"epsilon": epsilon, "stop": stop, "max_iter": 30}
    plain = sinkhorn(cost, *masses, **options)  # type: ignore[arg-type]
    for gradient in ("unrolled", "implicit"):
        found = sinkhorn(cost.clone().requires_grad_(), *masses, gradient=gradient, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(found.plan.detach(), plain.plan, atol=1e-5, rtol=0)
        assert found.plan.requires_grad
        assert found.n_iter == plain.n_iter
        assert torch.equal(found.converged, plain.converged)


def saved(gradient: str, sweeps: int) -> int:
    """Return how many numbers are kept for the backward pass."""
    kept = []
    cost, *masses = problem()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        sinkhorn(
            cost.requires_grad_(),
            *masses,
            epsilon=0.3,
            stop="none",
            max_iter=sweeps,
            gradient=gradient,  # type: ignore[arg-type]
        )
    return sum(kept)


def test_memory_of_implicit_does_not_grow_with_the_sweeps() -> None:
    assert saved("implicit", 200) == saved("implicit", 2) < saved("unrolled", 2)
    assert saved("unrolled", 200) > 50 * saved("unrolled", 2)


def test_a_plan_of_padding_alone_has_no_gradient_and_no_nan() -> None:
    for gradient in ("unrolled", "implicit"):
        cost, source, anchor = problem()
        source[1] = 0
        inputs = [part.requires_grad_() for part in (cost, source, anchor)]
        weigh(sinkhorn(*inputs, epsilon=0.3, gradient=gradient).plan).sum().backward()  # type: ignore[arg-type]
        for part in inputs:
            assert part.grad is not None
            assert bool(torch.isfinite(part.grad).all())
            assert not bool(part.grad[1].any())
            assert bool(part.grad[0].any())


@pytest.mark.parametrize(("n", "m"), [(20, 1), (1, 7), (100, 20)])
@pytest.mark.parametrize("last", ["anchor", "source"])
def test_gradients_are_finite_where_the_kernel_still_holds_the_plan(
    n: int, m: int, last: Side
) -> None:
    cost = 2 * torch.rand(2, n, m, generator=torch.Generator().manual_seed(0))
    masses = torch.full((2, n), 1 / n), torch.full((2, m), 1 / m)
    grown = cost.requires_grad_()
    sinkhorn(grown, *masses, epsilon=0.035, last=last).plan.square().sum().backward()
    assert grown.grad is not None
    assert bool(torch.isfinite(grown.grad).all())


def test_nothing_is_kept_without_a_graph() -> None:
    cost, *masses = problem()
    with torch.no_grad():
        found = sinkhorn(cost.requires_grad_(), *masses, epsilon=0.3)
    assert not found.plan.requires_grad
