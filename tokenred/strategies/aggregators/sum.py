"""Plain sum: anchors take in what they are sent, and nothing is normalised."""

from typing import ClassVar, Literal

import torch
from pydantic import Field

from tokenred.config import StrategyConfig
from tokenred.types import Coupling, MergeWeights


class SumConfig(StrategyConfig):
    """Settings of the sum."""

    own: Literal["one", "mass"] = Field(
        "one", description="weight of the anchor itself: 1, or its marginal"
    )


class SumAggregator:
    """Add to each anchor its sources, weighted by the plan: ``own_j x_j + sum_i T_ij s_i``.

    The norm of an anchor grows or shrinks with what it is sent.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    42Shawn/LLaVA-PruMerge@097c041 ``token_prune_merge_advanced``, where a division by the weights
    is commented out. Licence of source: Apache-2.0 (written from our description).
    Differs: nothing.
    """

    merges: ClassVar[bool] = True
    averages: ClassVar[bool] = False

    def __init__(self, config: SumConfig) -> None:
        self.config = config

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the plan itself."""
        plan = coupling.plan
        own = coupling.anchor_mass.to(plan.dtype)
        return MergeWeights(own if self.config.own == "mass" else torch.ones_like(own), plan)
