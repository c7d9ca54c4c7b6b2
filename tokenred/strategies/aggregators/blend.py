"""A blend of two merges: the weights of one mixed with those of another coupling."""

from typing import ClassVar

from pydantic import Field

from tokenred.config import AggregatorSlot, CouplerSlot, StrategyConfig, build
from tokenred.errors import ConfigError
from tokenred.types import Coupling, MergeWeights


class BlendConfig(StrategyConfig):
    """Settings of the blend."""

    first: AggregatorSlot = Field(
        "mass-normalised", validate_default=True, description="aggregator of the stage's coupling"
    )
    second: AggregatorSlot = Field(
        "mean", validate_default=True, description="aggregator of the second coupling"
    )
    second_coupler: CouplerSlot = Field(
        "nearest", validate_default=True, description="coupler of the second coupling"
    )
    second_cost: str = Field(
        "cosine", description="cost term of the stage that the second coupler sees, unweighted"
    )
    share: float = Field(0.1, ge=0, le=1, description="weight of the second merge")


class BlendAggregator:
    """Mix two linear maps: ``(1 - share) * first + share * second``.

    The second map comes from its own coupler on one of the stage's cost terms.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Raises
    ------
    ConfigError
        If the stage has no cost term called ``second_cost``.

    Source
    ------
    TyroneLi/AOT@88455ee ``token_merging_siglip_with_OTA``: 0.9 transport + 0.1 nearest, which the
    paper does not mention. Licence of source: Apache-2.0 (written from our description).
    Differs: nothing with the default parts.
    """

    merges: ClassVar[bool] = True

    def __init__(self, config: BlendConfig) -> None:
        self.config = config
        self.first = build("aggregator", config.first)
        self.second = build("aggregator", config.second)
        self.second_coupler = build("coupler", config.second_coupler)

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the mixed weights."""
        name = self.config.second_cost
        if name not in coupling.terms:
            raise ConfigError(
                f"the stage has no cost term '{name}' to blend with; "
                f"it has: {', '.join(sorted(coupling.terms)) or 'none'}",
                ["aggregator", "second_cost"],
            )
        other = self.second_coupler.couple(
            coupling.terms[name], coupling.source_mass, coupling.anchor_mass, coupling.forbidden
        )
        first, second = self.first.weights(coupling), self.second.weights(other)
        share = self.config.share
        return MergeWeights(
            (1 - share) * first.anchor + share * second.anchor,
            (1 - share) * first.source + share * second.source,
        )
