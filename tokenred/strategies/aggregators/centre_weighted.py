"""Centre-weighted mean: the anchor has a fixed say beside the mean of its sources."""

from typing import ClassVar

from pydantic import Field

from tokenred.config import StrategyConfig
from tokenred.strategies.aggregators._weights import members
from tokenred.types import Coupling, MergeWeights


class CentreWeightedConfig(StrategyConfig):
    """Settings of the centre-weighted aggregator."""

    beta: float = Field(0.6, ge=0, le=1, description="weight of the anchor itself")
    at_least_mean: bool = Field(
        False, description="an anchor of few sources weighs 1 / (sources + 1), if that is more"
    )
    own_in_mean: bool = Field(
        False, description="the anchor also counts as one of its sources, as FastVID released it"
    )


class CentreWeightedAggregator:
    """Replace each anchor by ``beta`` of itself and ``1 - beta`` of the mean of its sources.

    A source belongs to the anchor with the largest entry in its row (the first of equals). An
    anchor without sources stays as it is.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    FastVID (LunarShen/FastVID@a40a109, MIT) with ``at_least_mean``; HoliTom
    (cokeshao/HoliTom@e9b2972, Apache-2.0) without. Licence of source: as named (written from our
    description).
    Differs: nothing; FastVID's form for LLaVA-OneVision is ``own_in_mean``.
    """

    merges: ClassVar[bool] = True

    def __init__(self, config: CentreWeightedConfig) -> None:
        self.config = config

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the weights, which sum to one for every anchor."""
        chosen = members(coupling.plan)
        count = chosen.sum(-2)
        size = count + self.config.own_in_mean
        own = count.new_full(count.shape, self.config.beta)
        if self.config.at_least_mean:
            own = own.maximum(1 / (size + 1))
        own = own.where(count > 0, 1.0)
        each = (1 - own) / size.clamp_min(1)
        anchor = own + each if self.config.own_in_mean else own
        return MergeWeights(anchor, chosen * each[..., None, :])
