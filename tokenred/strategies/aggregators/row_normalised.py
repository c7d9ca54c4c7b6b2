"""Row-normalised aggregation: every source is shared out completely."""

from typing import ClassVar

from pydantic import Field

from tokenred.config import StrategyConfig
from tokenred.strategies.aggregators._weights import average
from tokenred.types import Coupling, MergeWeights


class RowNormalisedConfig(StrategyConfig):
    """Settings of the row-normalised aggregator."""

    strength: float = Field(1.0, ge=0, description="weight of the merged context (lambda)")


class RowNormalisedAggregator:
    """Average each anchor with its sources, weighted by assignment probabilities.

    ``p_ij = T_ij / sum_j T_ij``, then ``x_j <- (x_j + strength * sum_i p_ij s_i) / (1 + strength *
    sum_i p_ij)``. A source with an empty row contributes nothing.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    AOT, arXiv 2603.01400, Eqs. 15-16; TyroneLi/AOT@88455ee ``ota_merge_N_to_M_time``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: nothing; row sums are floored at 1e-9 as in the release.
    """

    merges: ClassVar[bool] = True

    def __init__(self, config: RowNormalisedConfig) -> None:
        self.config = config

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the averaging weights."""
        rows = coupling.plan.sum(-1, keepdim=True).clamp_min(1e-9)
        return average(coupling.plan / rows, self.config.strength)
