"""Who may be ranked: the plan of every contender against float64, and its own marginals."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.speed.data import Problems

PLAN_TOLERANCE = 1e-4
"""L1 distance of a plan of mass 1 to the float64 plan; float32 leaves about 5e-7."""


@dataclass(frozen=True)
class Accuracy:
    """How right a plan is, the worst problem of the batch.

    Attributes
    ----------
    plan_l1 : sum of absolute differences to the float64 plan, which has mass 1
    row_l1, column_l1 : sum of absolute errors of the marginals, of sources and of anchors
    """

    plan_l1: float
    row_l1: float
    column_l1: float

    @property
    def violation(self) -> float:
        """The larger marginal error."""
        return max(self.row_l1, self.column_l1)

    @property
    def ranked(self) -> bool:
        """Whether its time may be compared with that of others."""
        return self.plan_l1 <= PLAN_TOLERANCE


def accuracy(
    plan: Float[Tensor, "frames sources anchors"],
    reference: Float[Tensor, "frames sources anchors"],
    problems: Problems,
) -> Accuracy:
    """Judge a plan in float64; one that holds NaN is off by infinity."""
    plan = plan.double()
    plan = plan.where(plan.isfinite(), torch.inf)
    return Accuracy(
        float((plan - reference).abs().sum((-1, -2)).max()),
        float((plan.sum(-1) - problems.source.double()).abs().sum(-1).max()),
        float((plan.sum(-2) - problems.anchor.double()).abs().sum(-1).max()),
    )


def reference_plan(
    problems: Problems, epsilon: float, sweeps: int
) -> Float[Tensor, "frames sources anchors"]:
    """Return the plan after so many sweeps, in float64 and in the log domain.

    Written here once more, so that what is judged is not judged by itself.
    """
    scaled = problems.cost.double() / -epsilon
    log_source, log_anchor = problems.source.double().log(), problems.anchor.double().log()
    f, g = torch.zeros_like(log_source), torch.zeros_like(log_anchor)
    for _ in range(sweeps):
        f = log_source - torch.logsumexp(scaled + g[..., None, :], -1)
        g = log_anchor - torch.logsumexp(scaled + f[..., :, None], -2)
    return torch.exp(scaled + f[..., :, None] + g[..., None, :])
