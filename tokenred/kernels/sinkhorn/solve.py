"""The public function: which domain, which sweeps, which gradient."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenred.kernels.sinkhorn import implicit, paths, unrolled
from tokenred.kernels.sinkhorn.chebyshev import default_rho
from tokenred.kernels.sinkhorn.problem import (
    Acceleration,
    Domain,
    Gradient,
    Problems,
    Rules,
    Side,
    Stop,
    SweepResult,
)
from tokenred.kernels.sinkhorn.sweeps import is_plain

KERNEL_RANGE = 60.0
"""Largest |cost| / epsilon of the kernel domain: float32 exp underflows at -87."""
GRADIENT_RANGE = 40.0
"""The same where there is a gradient: that of a quotient has the square of what it divides by."""
ABSORBED_ROUNDING = 1e-3
"""Largest rounding of a log scaling, |cost| / epsilon times the machine's, that is absorbed."""


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
    acceleration: Acceleration = "auto",
    gradient: Gradient = "unrolled",
    forbidden: Bool[Tensor, "*batch sources anchors"] | None = None,
) -> Scaling:
    """Solve ``min <T, C> - epsilon H(T)`` with the given marginals.

    Parameters
    ----------
    cost : (*batch, sources, anchors); half precision is computed in float32, float64 stays. The
        transposed view of a contiguous (*batch, anchors, sources) tensor is fastest
    source_mass, anchor_mass : marginals of equal total; zero entries are padding
    epsilon : regularisation, in the unit of ``cost``
    max_iter : sweeps at most (one sweep updates both sides)
    stop : ``none`` makes every sweep; ``residual`` stops a problem when the worst marginal error,
        relative to the largest mass of that side, is below ``tolerance``; ``scaling`` when the mean
        absolute change of the source scaling is (Algorithm 1 of AOT); ``scaling-batch`` takes that
        mean over the whole batch, as AOT's released code does
    last : the side that is updated last, whose marginal is then exact
    domain : ``kernel`` iterates on exp(-C / epsilon) and turns into NaN where that underflows;
        ``absorbed`` does so on a kernel that takes in the scalings as they grow, for a small
        epsilon; ``log`` is always right and slower. ``auto`` takes the kernel while |cost| is at
        most 60 epsilon (40 with a gradient); then the absorbed kernel on a CPU, unless the rule is
        about scalings or rounding exceeds 1e-3 of an entry (8000 epsilon in float32); else the log
        domain
    acceleration : ``chebyshev`` extrapolates the logarithms of the anchor scalings, for the rules
        ``none`` and ``residual``; ``auto`` does so for ``residual`` only
    gradient : ``unrolled`` differentiates the sweeps; ``implicit`` the equations that the solution
        satisfies, in memory that does not grow with the sweeps. It presumes convergence: it is off
        by as much as the plan is, and by no more at a small tolerance
    forbidden : pairs that get nothing. Every path sees a finite cost there, at which the kernel is
        lost in the rounding of any allowed pair's, and which has no say in the domain. Where
        allowed pairs cannot carry all mass, the marginals are those before the rest is taken away.
        ``domain: kernel`` has zeros there, and NaN for what has no allowed pair

    Raises
    ------
    ValueError
        where ``chebyshev`` meets a rule about scalings, which are not those of plain sweeps then

    Notes
    -----
    The stop decision carries no gradient. Frozen problems keep the values they stopped with, so a
    batch equals a loop for every rule but ``scaling-batch``. With acceleration and anchors last,
    ``residual`` tests a bound of the error from the third sweep on, which is met a sweep or two
    later; the error that is reported is the true one. Equal rows of cost and mass get equal rows
    of the plan, to the last bit.
    """
    if acceleration == "chebyshev" and stop in ("scaling", "scaling-batch"):
        raise ValueError(f"acceleration: chebyshev changes the scalings that stop: {stop} tests")
    accelerates = acceleration == "chebyshev" or (acceleration == "auto" and stop == "residual")
    rho = default_rho(epsilon) if accelerates else None
    rules = Rules(max_iter, stop, tolerance, last, rho)
    batch = cost.shape[:-2]
    if cost.numel() == 0:
        plan = cost if cost.dtype == torch.float64 else cost.float()
        return Scaling(plan, 0, plan.new_zeros(batch), plan.new_ones(batch, dtype=torch.bool))
    problems = Problems.of(cost, source_mass, anchor_mass, epsilon)
    apart = None if forbidden is None else forbidden.expand(cost.shape).reshape(problems.cost.shape)
    if apart is not None:
        problems = replace(problems, cost=problems.cost.masked_fill(apart, 0.0))
    zeros = domain == "kernel"
    if domain == "auto":
        widest = GRADIENT_RANGE if _has_gradient(problems) else KERNEL_RANGE
        domain = _choose(problems.cost.detach(), epsilon, stop, widest)
    if apart is not None:
        price = torch.inf if zeros else _beyond(problems.cost, epsilon)
        problems = replace(problems, cost=problems.cost.where(~apart, price))
    plan, run = _solve(problems, rules, domain, gradient)
    source_error, anchor_error = _marginal_errors(plan.detach(), problems.detach())
    if problems.empty is not None:
        plan = plan.masked_fill(problems.empty[:, None, None], 0.0)
    if apart is not None and not zeros:
        plan = plan.masked_fill(apart, 0.0)
    residual = torch.maximum(source_error, anchor_error)
    converged = residual <= tolerance if stop == "none" else run.done
    if stop == "residual" and last == "anchor" and is_plain(rules, max_iter):
        # No half sweep followed the last sweep that could have shown its error.
        met = source_error < tolerance * problems.source.detach().amax(-1)
        converged = converged | (met & (run.n_iter == max_iter))
    return Scaling(
        plan.unflatten(0, batch) if batch else plan[0],
        int(run.n_iter.max()),
        residual.reshape(batch),
        converged.reshape(batch),
    )


def _solve(
    problems: Problems, rules: Rules, domain: Domain, gradient: Gradient
) -> tuple[Tensor, SweepResult]:
    if not _has_gradient(problems):
        return paths.solve(problems, rules, domain)
    if gradient == "implicit":
        return implicit.differentiable(problems, rules, domain)
    run = paths.solve(problems.detach(), rules, domain)[1]
    return unrolled.replay(problems, rules, run, domain), run


def _beyond(cost: Tensor, epsilon: float) -> Tensor:
    """Return a cost beyond the dearest of each problem, at which the kernel counts for nothing."""
    log_rounding = -math.log(torch.finfo(cost.dtype).eps)
    return cost.detach().amax((-2, -1), keepdim=True) + (log_rounding + 4) * epsilon


def _has_gradient(problems: Problems) -> bool:
    inputs = problems.cost, problems.source, problems.anchor
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)


def _choose(
    cost: Float[Tensor, "b sources anchors"], epsilon: float, stop: Stop, widest: float
) -> Domain:
    # No shift by the minimum: it would change the absolute size that the scaling rules test.
    # torch copies what is not contiguous before it looks at it.
    low, high = (cost.mT if cost.mT.is_contiguous() else cost).aminmax()
    width = max(-float(low), float(high)) / epsilon
    if width <= widest:
        return "kernel"
    resolved = width * torch.finfo(cost.dtype).eps <= ABSORBED_ROUNDING
    if resolved and cost.device.type == "cpu" and stop in ("none", "residual"):
        return "absorbed"
    return "log"


def _marginal_errors(
    plan: Float[Tensor, "b sources anchors"], problems: Problems
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    b, n, m = plan.shape
    rows = torch.bmm(plan.new_ones(b, 1, m), plan.mT)[:, 0]
    columns = torch.bmm(plan.new_ones(b, 1, n), plan)[:, 0]
    return (rows - problems.source).abs().amax(-1), (columns - problems.anchor).abs().amax(-1)
