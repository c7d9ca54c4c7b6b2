"""The gradient at the fixed point, by implicit differentiation: memory constant in sweeps."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenred.kernels.sinkhorn import paths
from tokenred.kernels.sinkhorn.problem import Domain, Problems, Rules, Side, SweepResult

RIDGE = 1e-12
"""Added to a matrix with ones on its diagonal: a plan of loose blocks has a gradient too."""


def differentiable(
    problems: Problems, rules: Rules, domain: Domain
) -> tuple[Float[Tensor, "b sources anchors"], SweepResult]:
    """Return plans whose gradient is that of the solution, and what happened."""
    found: list[SweepResult] = []
    plan = _FixedPoint.apply(
        problems.cost, problems.source, problems.anchor, problems, rules, domain, found
    )
    return plan, found[0]


class _FixedPoint(torch.autograd.Function):
    """The plan as a function of cost and masses.

    At the solution ``P = exp(f + g - C / epsilon)`` with ``P 1 = u`` and ``P' 1 = v``. The
    derivatives of those two equations are a linear system for ``df`` and ``dg``, symmetric, so the
    adjoint solves the same one. Eliminating the sources leaves a matrix of anchors by anchors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cost: Tensor,
        source: Tensor,
        anchor: Tensor,
        problems: Problems,
        rules: Rules,
        domain: Domain,
        found: list[SweepResult],
    ) -> Tensor:
        plan, run = paths.solve(problems.detach(), rules, domain)
        found.append(run)
        ctx.save_for_backward(plan)
        ctx.epsilon, ctx.last = problems.epsilon, rules.last
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (plan,) = ctx.saved_tensors
        by_source, by_anchor = adjoint(plan, upstream, ctx.last)
        both = by_source[:, :, None] + by_anchor[:, None, :]
        by_cost = plan * (both - upstream) / ctx.epsilon
        return by_cost, by_source, by_anchor, None, None, None, None


def adjoint(
    plan: Float[Tensor, "b sources anchors"],
    upstream: Float[Tensor, "b sources anchors"],
    last: Side,
) -> tuple[Float[Tensor, "b sources"], Float[Tensor, "b anchors"]]:
    """Return the gradients with respect to the masses, computed in float64.

    They are defined up to a constant that is added to one and taken from the other, for masses
    of different total have no plan. Sweeps on such masses keep those of the side that is ``last``
    and rescale the others, so the constant is the one that makes rescaling change nothing.
    """
    p, weighted = plan.double(), (plan * upstream).double()
    rows, columns = p.sum(-1), p.sum(-2)
    per_row, per_column = (1 / t.masked_fill(t <= 0, torch.inf) for t in (rows, columns))
    right_source, right_anchor = weighted.sum(-1), weighted.sum(-2)
    shared = p * per_row[:, :, None]
    # (columns - P' rows^-1 P) b = right_anchor - P' rows^-1 right_source, with b' columns = 0, in
    # units in which the diagonal of the first term is one.
    root = per_column.sqrt()
    share = root[:, :, None] * (p.mT @ shared) * root[:, None, :]
    level = columns * root
    level = level / level.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(level.dtype).tiny)
    eye = (1 + RIDGE) * torch.eye(share.shape[-1], dtype=share.dtype, device=share.device)
    matrix = eye - share + level[:, :, None] * level[:, None, :]
    right = root * (right_anchor - (shared * right_source[:, :, None]).sum(-2))
    lower = torch.linalg.cholesky(matrix)
    by_anchor = root * torch.cholesky_solve(right[:, :, None], lower)[:, :, 0]
    by_source = per_row * (right_source - (p @ by_anchor[:, :, None])[:, :, 0])
    side, mass = (by_source, rows) if last == "anchor" else (-by_anchor, columns)
    constant = (side * mass).sum(-1, keepdim=True) * (1 / mass.sum(-1, keepdim=True)).nan_to_num(
        posinf=0.0
    )
    by_source = (by_source - constant).to(plan.dtype)
    return by_source, (by_anchor + constant).to(plan.dtype)
