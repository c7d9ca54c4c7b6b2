"""No aggregation: anchors stay what they were."""

from typing import ClassVar

import torch

from tokenred.config import StrategyConfig
from tokenred.types import Coupling, MergeWeights


class KeepOnlyConfig(StrategyConfig):
    """No settings."""


class KeepOnlyAggregator:
    """Keep the anchors and drop everything else: pruning.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    AOT, arXiv 2603.01400, Table 4, "No Merging". Written from the paper.
    Differs: nothing.
    """

    merges: ClassVar[bool] = False

    def __init__(self, config: KeepOnlyConfig) -> None:
        self.config = config

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the identity on the anchors."""
        plan = coupling.plan
        anchors = torch.ones(
            (*plan.shape[:-2], plan.shape[-1]), dtype=plan.dtype, device=plan.device
        )
        return MergeWeights(anchors, torch.zeros_like(plan))
