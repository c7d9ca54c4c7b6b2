"""Exact optimal transport, by POT's network simplex."""

from typing import ClassVar

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import CapabilityError
from tokenred.interfaces import Marginals
from tokenred.types import Coupling


class ExactConfig(StrategyConfig):
    """No settings: the exact plan has none."""


class ExactCoupler:
    """Couple by unregularised optimal transport (a sparse plan), on the CPU, problem by problem.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same

    Raises
    ------
    CapabilityError
        If POT is not installed (``pip install tokenred[pot]``).

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 3. Solver: POT ``ot.emd`` (MIT, used as a library).
    Differs: AOT never solves the exact problem; this is the limit ``epsilon -> 0`` of its plan.
    No gradient flows through the plan.
    """

    marginals: ClassVar[Marginals] = "both"

    def __init__(self, config: ExactConfig) -> None:
        self.config = config

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the cheapest plan with both marginals."""
        try:
            import ot
        except ImportError:
            raise CapabilityError(
                "coupler 'exact' needs POT: pip install 'tokenred[pot]'"
            ) from None
        batch = cost.shape[:-2]
        priced = cost.detach().double()
        if forbidden is not None and cost.numel():
            # Dearer than any detour over allowed pairs, so that it is taken only without one.
            allowed = priced.abs().masked_fill(forbidden, 0.0).amax((-2, -1), keepdim=True)
            priced = priced.where(~forbidden, (1 + 2 * allowed) * sum(cost.shape[-2:]))
        flat = priced.cpu().reshape(-1, *cost.shape[-2:]).numpy()
        rows = source_mass.detach().double().cpu().expand(*batch, -1).reshape(len(flat), -1).numpy()
        columns = (
            anchor_mass.detach().double().cpu().expand(*batch, -1).reshape(len(flat), -1).numpy()
        )
        plans = []
        for matrix, a, b in zip(flat, rows, columns):
            if a.sum() == 0 or b.sum() == 0:  # one side is padding alone
                plans.append(torch.zeros(matrix.shape, dtype=torch.float64))
                continue
            # emd compares the totals to 1e-7; float32 masses are rescaled to agree.
            plans.append(torch.from_numpy(ot.emd(a, b * (a.sum() / b.sum()), matrix)))
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        plan = torch.stack(plans).reshape(cost.shape).to(cost.device, dtype)
        if forbidden is not None:
            plan = plan.masked_fill(forbidden, 0.0)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)
