"""Nearest-anchor coupling: every source goes whole to its cheapest anchor."""

from typing import ClassVar

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import Marginals
from tokenred.strategies.couplers.closed import closed_pairs
from tokenred.types import Coupling


class NearestConfig(StrategyConfig):
    """No settings."""


class NearestCoupler:
    """Couple every source with its cheapest anchor; the first of equals wins.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, one non-zero a row

    Source
    ------
    Tencent/SelfEvolvingAgent@a82450e (VScan) ``token_merging``, which AOT's release blends in.
    Licence of source: MIT (written from our description).
    Differs: nothing.
    """

    marginals: ClassVar[Marginals] = "source"

    def __init__(self, config: NearestConfig) -> None:
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
        real = cost.masked_fill(closed_pairs(anchor_mass, forbidden), torch.inf)
        choice = torch.nn.functional.one_hot(real.argmin(-1), cost.shape[-1]).to(dtype)
        plan = choice * source_mass.to(dtype)[..., :, None]
        if forbidden is not None:  # a source may have nowhere to go
            plan = plan.masked_fill(forbidden, 0.0)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)
