"""Soft-max coupling: every source spreads over the anchors by similarity alone."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import Marginals
from tokenred.strategies.couplers.closed import closed_pairs
from tokenred.types import Coupling


class CosineCouplerConfig(StrategyConfig):
    """Settings of the cosine coupler."""

    temperature: float = Field(0.1, gt=0, description="soft-max temperature, in the cost's unit")


class CosineCoupler:
    """Couple by ``source_mass * softmax(-cost / temperature)`` over the anchors.

    With ``temperature`` equal to ``epsilon`` this is Sinkhorn's kernel without balancing: the
    difference to ``sinkhorn`` is transport, and nothing else.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same

    Source
    ------
    AOT, arXiv 2603.01400, Table 4, "Cosine Merging" (not spelled out there).
    Licence of source: written from the paper.
    Differs: the soft-max and its temperature are our reading.
    """

    marginals: ClassVar[Marginals] = "source"

    def __init__(self, config: CosineCouplerConfig) -> None:
        self.config = config

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the plan; padded and forbidden anchors receive nothing."""
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        logits = -cost.to(dtype) / self.config.temperature
        closed = closed_pairs(anchor_mass, forbidden)
        logits = logits.masked_fill(closed, torch.finfo(dtype).min)
        plan = torch.softmax(logits, dim=-1) * source_mass.to(dtype)[..., :, None]
        if forbidden is not None:
            plan = plan.masked_fill(forbidden, 0.0)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)
