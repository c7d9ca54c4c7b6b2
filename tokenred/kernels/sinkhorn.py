"""Entropic optimal transport by Sinkhorn-Knopp scaling, in the kernel or in the log domain."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Stop = Literal["none", "residual", "scaling", "scaling-batch"]
Side = Literal["anchor", "source"]
Domain = Literal["auto", "kernel", "log"]

LOG_DOMAIN_RANGE = 60.0
"""float32 exp underflows at -87; with larger costs / epsilon the log domain is used."""


@dataclass(frozen=True)
class Scaling:
    """A Sinkhorn solution: plan, sweeps of the slowest problem, residual and stop per problem."""

    plan: Float[Tensor, "*batch sources anchors"]
    n_iter: int
    residual: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]


def sinkhorn(
    cost: Float[Tensor, "*batch sources anchors"],
    source_mass: Float[Tensor, "*batch sources"],
    anchor_mass: Float[Tensor, "*batch anchors"],
    *,
    epsilon: float,
    max_iter: int = 100,
    stop: Stop = "residual",
    tolerance: float = 1e-3,
    last: Side = "anchor",
    domain: Domain = "auto",
) -> Scaling:
    """Solve ``min <T, C> - epsilon H(T)`` with the given marginals.

    Parameters
    ----------
    cost : (*batch, sources, anchors); half precision is computed in float32, float64 stays
    source_mass, anchor_mass : marginals of equal total; zero entries are padding
    epsilon : regularisation, in the unit of ``cost``
    max_iter : sweeps at most (one sweep updates both sides)
    stop : ``none`` makes every sweep; ``residual`` stops a problem when the worst marginal error,
        relative to the largest mass of that side, is below ``tolerance``; ``scaling`` when the mean
        absolute change of the source scaling is (Algorithm 1 of AOT); ``scaling-batch`` takes that
        mean over the whole batch, as AOT's released code does
    last : the side that is updated last, whose marginal is then exact
    domain : ``kernel`` iterates on exp(-C / epsilon) and turns into NaN where that underflows,
        ``log`` is always right and slower, ``auto`` takes the kernel wherever float32 holds it

    Notes
    -----
    Plain differentiable torch; the stop decision carries no gradient. Frozen problems keep the
    values they stopped with, so a batch equals a loop for every rule but ``scaling-batch``.
    """
    dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
    source, anchor = source_mass.to(dtype), anchor_mass.to(dtype)
    real = (source > 0)[..., :, None] & (anchor > 0)[..., None, :]
    # Padding is infinitely dear, so that no sum runs over it; where one side is padding alone there
    # is nothing to ship, and the other side counts as padding too.
    scaled = (cost.to(dtype) / epsilon).masked_fill(~real, torch.inf)
    mass: dict[str, Tensor] = {
        "source": source.where(real.any(-1), 0.0),
        "anchor": anchor.where(real.any(-2), 0.0),
    }
    if domain == "auto":
        domain = "kernel" if _fits_kernel(scaled.detach().masked_fill(~real, 0.0)) else "log"
    problem = _KernelDomain(scaled, mass) if domain == "kernel" else _LogDomain(scaled, mass)
    return _iterate(problem, mass, max_iter, stop, tolerance, last)


def _fits_kernel(scaled: Tensor) -> bool:
    # No shift by the minimum: it would change the absolute size that the scaling rules test.
    return scaled.numel() == 0 or bool(scaled.abs().max() <= LOG_DOMAIN_RANGE)


class _KernelDomain:
    """Scalings ``r``, ``c`` of ``K = exp(-C / epsilon)``; fast, for moderate ranges."""

    def __init__(self, scaled: Tensor, mass: dict[str, Tensor]) -> None:
        self.kernel = torch.exp(-scaled)
        self.mass = mass
        self.state = {
            side: torch.ones_like(m.expand(_batch(scaled, m))) for side, m in mass.items()
        }

    def update(self, side: Side, state: dict[str, Tensor]) -> Tensor:
        if side == "source":
            # A sum, not a product with BLAS: equal rows must get equal scalings to the last bit,
            # or duplicates (newline tokens) would straddle a quantile of their own scores.
            total = (self.kernel * state["anchor"][..., None, :]).sum(-1)
        else:
            total = (state["source"][..., None, :] @ self.kernel)[..., 0, :]
        return self.mass[side] / total.masked_fill(self.mass[side] <= 0, 1.0)

    def scaling(self, value: Tensor) -> Tensor:
        return value

    def plan(self, state: dict[str, Tensor]) -> Tensor:
        return state["source"][..., :, None] * self.kernel * state["anchor"][..., None, :]


class _LogDomain:
    """Log scalings; slower, right for every range of the cost."""

    def __init__(self, scaled: Tensor, mass: dict[str, Tensor]) -> None:
        self.scaled = scaled
        self.log_mass = {side: m.log() for side, m in mass.items()}
        self.padding = {side: m <= 0 for side, m in mass.items() if bool((m <= 0).any())}
        self.state = {
            side: torch.zeros_like(m.expand(_batch(scaled, m))) for side, m in mass.items()
        }

    def update(self, side: Side, state: dict[str, Tensor]) -> Tensor:
        if side == "source":
            terms, dim = state["anchor"][..., None, :] - self.scaled, -1
        else:
            terms, dim = state["source"][..., :, None] - self.scaled, -2
        if side in self.padding:  # it sums to nothing, and that has no gradient
            terms = terms.masked_fill(self.padding[side].unsqueeze(dim), 0.0)
        return self.log_mass[side] - torch.logsumexp(terms, dim=dim)

    def scaling(self, value: Tensor) -> Tensor:
        return value.exp()

    def plan(self, state: dict[str, Tensor]) -> Tensor:
        return torch.exp(
            state["source"][..., :, None] - self.scaled + state["anchor"][..., None, :]
        )


def _batch(cost: Tensor, mass: Tensor) -> tuple[int, ...]:
    return (*cost.shape[:-2], mass.shape[-1])


def _iterate(
    domain: "_KernelDomain | _LogDomain",
    mass: dict[str, Tensor],
    max_iter: int,
    stop: Stop,
    tolerance: float,
    last: Side,
) -> Scaling:
    state = dict(domain.state)
    first: Side = "source" if last == "anchor" else "anchor"
    done = torch.zeros(state["source"].shape[:-1], dtype=torch.bool, device=mass["source"].device)
    n_iter = 0
    for n_iter in range(1, max_iter + 1):  # noqa: B007 - the count is reported
        new = dict(state)
        for side in (first, last):
            value = domain.update(side, new)
            new[side] = torch.where(done[..., None], new[side], value) if done.any() else value
        change = domain.scaling(new["source"]) - domain.scaling(state["source"])
        state = new
        done = done | _stops(domain, state, mass, change.detach(), stop, tolerance, first)
        if bool(done.all()):
            break
    plan = domain.plan(state)
    residual = torch.maximum(
        _worst(plan.detach().sum(-1), mass["source"]),
        _worst(plan.detach().sum(-2), mass["anchor"]),
    )
    converged = done if stop != "none" else residual <= tolerance
    return Scaling(plan, n_iter, residual, converged)


def _worst(total: Tensor, mass: Tensor) -> Tensor:
    return (total - mass).abs().amax(-1)


def _stops(
    domain: "_KernelDomain | _LogDomain",
    state: dict[str, Tensor],
    mass: dict[str, Tensor],
    change: Tensor,
    stop: Stop,
    tolerance: float,
    free: Side,
) -> Tensor:
    if stop == "scaling":
        # The mean runs over real sources only, so that padding cannot stop a problem early.
        real = (mass["source"] > 0).expand(change.shape)
        return (change.abs() * real).sum(-1) / real.sum(-1).clamp_min(1) < tolerance
    if stop == "scaling-batch":
        real = (mass["source"] > 0).expand(change.shape)
        mean = (change.abs() * real).sum() / real.sum().clamp_min(1)
        return (mean < tolerance).expand(change.shape[:-1])
    if stop == "residual":
        plan = domain.plan({side: value.detach() for side, value in state.items()})
        error = _worst(plan.sum(-1 if free == "source" else -2), mass[free])
        return error < tolerance * mass[free].amax(-1)
    return torch.zeros(change.shape[:-1], dtype=torch.bool, device=change.device)
