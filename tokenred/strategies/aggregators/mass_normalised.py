"""Mass-normalised aggregation: anchors average in what the plan ships to them."""

from typing import ClassVar, Literal

from pydantic import Field

from tokenred.config import StrategyConfig
from tokenred.strategies.aggregators._weights import average
from tokenred.types import Coupling, MergeWeights


class MassNormalisedConfig(StrategyConfig):
    """Settings of the mass-normalised aggregator."""

    strength: float = Field(1.0, ge=0, description="weight of the merged context (lambda)")
    mass: Literal["plan", "unit"] = Field(
        "plan", description="ship the plan's own mass (total 1), or unit mass from every source"
    )
    own: Literal["one", "mass"] = Field(
        "one", description="weight of the anchor itself: 1, or its marginal"
    )


class MassNormalisedAggregator:
    """Average each anchor with its sources, weighted by transported mass.

    ``x_j <- (x_j + strength * sum_i T_ij s_i) / (1 + strength * sum_i T_ij)``. With ``mass: plan``
    and uniform marginals the mass an anchor receives is exactly 1/anchors, so an anchor moves by
    less than a per cent of the way; ``mass: unit`` divides each row by its source's mass, so that
    every source ships one token's worth. With ``own: mass`` the anchor weighs its own marginal
    instead of 1; over sizes (the stage's ``mass: size``) that is ToMe's weighted average.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    AOT, arXiv 2603.01400, Eqs. 10-11. Licence of source: Apache-2.0 (written from the paper).
    Differs: ``mass: unit`` and ``own`` are ours. The release floors the mass at 1e-9, which changes
    nothing.
    """

    merges: ClassVar[bool] = True

    def __init__(self, config: MassNormalisedConfig) -> None:
        self.config = config

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the averaging weights."""
        share = coupling.plan
        if self.config.mass == "unit":
            mass = coupling.source_mass.to(share.dtype)
            share = share / mass.masked_fill(mass <= 0, 1.0)[..., :, None]
        own = coupling.anchor_mass.to(share.dtype) if self.config.own == "mass" else None
        return average(share, self.config.strength, own)
