"""No coupling: sources are dropped."""

from typing import ClassVar

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import Marginals
from tokenred.types import Coupling


class NoCouplerConfig(StrategyConfig):
    """No settings."""


class NoCoupler:
    """Couple nothing with anything: the plan is zero and anchors stay as they are.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, all zero

    Source
    ------
    AOT, arXiv 2603.01400, Table 5, "w/o OT". Written from the paper.
    Differs: nothing.
    """

    marginals: ClassVar[Marginals] = "none"
    couples: ClassVar[bool] = False

    def __init__(self, config: NoCouplerConfig) -> None:
        self.config = config

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the empty plan."""
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        plan = torch.zeros(cost.shape, dtype=dtype, device=cost.device)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)
