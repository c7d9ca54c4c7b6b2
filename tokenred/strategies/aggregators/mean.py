"""Plain mean: every source counts as one token of the anchor it goes to most."""

from typing import ClassVar

from tokenred.config import StrategyConfig
from tokenred.strategies.aggregators._weights import average, members
from tokenred.types import Coupling, MergeWeights


class MeanConfig(StrategyConfig):
    """No settings."""


class MeanAggregator:
    """Replace each anchor by the mean of itself and the sources that prefer it.

    A source belongs to the anchor with the largest entry in its row (the first of equals); a source
    with an empty row belongs to none.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    Tencent/SelfEvolvingAgent@a82450e (VScan) ``token_merging`` with scaling 1.
    Licence of source: MIT (written from our description).
    Differs: nothing with the ``nearest`` coupler; soft plans are hardened first.
    """

    merges: ClassVar[bool] = True

    def __init__(self, config: MeanConfig) -> None:
        self.config = config

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the averaging weights."""
        return average(members(coupling.plan))
