"""Aggregators: from a coupling to the linear map that updates the anchors."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import ConfigError
from tokenred.interfaces import Aggregator, Coupler
from tokenred.slots import Slot, build
from tokenred.types import Coupling, MergeWeights


def average(
    share: Float[Tensor, "*batch sources anchors"],
    strength: float = 1.0,
    own: Float[Tensor, "*batch anchors"] | None = None,
) -> MergeWeights:
    """Return ``(own_j x_j + strength * sum_i share_ij s_i) / (own_j + strength * sum_i share_ij)``.

    The weights of every anchor sum to one, so the result lies in the convex hull of its inputs.
    ``own`` is one by default; an anchor of no weight that is sent nothing stays as it is.
    """
    shipped = strength * share
    if own is None:
        total = 1 + shipped.sum(-2)
        return MergeWeights(1 / total, shipped / total[..., None, :])
    total = own + shipped.sum(-2)
    own, total = own.where(total > 0, 1.0), total.where(total > 0, 1.0)
    return MergeWeights(own / total, shipped / total[..., None, :])


def members(
    plan: Float[Tensor, "*batch sources anchors"],
) -> Float[Tensor, "*batch sources anchors"]:
    """Return 1 where an anchor has the largest entry of a row, the first of equals; 0 elsewhere.

    A source with an empty row belongs to no anchor.
    """
    chosen = torch.nn.functional.one_hot(plan.argmax(-1), plan.shape[-1]).to(plan.dtype)
    return chosen * (plan.sum(-1, keepdim=True) > 0)


class MassNormalisedConfig(StrategyConfig):
    """Settings of the mass-normalised aggregator."""

    strength: float = Field(1.0, ge=0, le=1e6, description="weight of the merged context (lambda)")
    mass: Literal["plan", "unit"] = Field(
        "plan", description="ship the plan's own mass (total 1), or unit mass from every source"
    )
    own: Literal["one", "mass"] = Field(
        "one", description="weight of the anchor itself: 1, or its marginal"
    )


class MassNormalisedAggregator(Aggregator):
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

    config: MassNormalisedConfig

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the averaging weights."""
        share = coupling.plan
        if self.config.mass == "unit":
            mass = coupling.source_mass.to(share.dtype)
            share = share / mass.masked_fill(mass <= 0, 1.0)[..., :, None]
        own = coupling.anchor_mass.to(share.dtype) if self.config.own == "mass" else None
        return average(share, self.config.strength, own)


class RowNormalisedConfig(StrategyConfig):
    """Settings of the row-normalised aggregator."""

    strength: float = Field(1.0, ge=0, le=1e6, description="weight of the merged context (lambda)")


class RowNormalisedAggregator(Aggregator):
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

    config: RowNormalisedConfig

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the averaging weights."""
        rows = coupling.plan.sum(-1, keepdim=True).clamp_min(1e-9)
        return average(coupling.plan / rows, self.config.strength)


class CentreWeightedConfig(StrategyConfig):
    """Settings of the centre-weighted aggregator."""

    beta: float = Field(0.6, ge=0, le=1, description="weight of the anchor itself")
    at_least_mean: bool = Field(
        False, description="an anchor of few sources weighs 1 / (sources + 1), if that is more"
    )
    own_in_mean: bool = Field(
        False, description="the anchor also counts as one of its sources, as FastVID released it"
    )


class CentreWeightedAggregator(Aggregator):
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

    config: CentreWeightedConfig

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


class MeanAggregator(Aggregator):
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

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the averaging weights."""
        return average(members(coupling.plan))


class SumConfig(StrategyConfig):
    """Settings of the sum."""

    own: Literal["one", "mass"] = Field(
        "one", description="weight of the anchor itself: 1, or its marginal"
    )


class SumAggregator(Aggregator):
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

    config: SumConfig
    averages = False

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the plan itself."""
        plan = coupling.plan
        own = coupling.anchor_mass.to(plan.dtype)
        return MergeWeights(own if self.config.own == "mass" else torch.ones_like(own), plan)


class BlendConfig(StrategyConfig):
    """Settings of the blend."""

    first: Slot[Aggregator] = Field(
        "mass-normalised", validate_default=True, description="aggregator of the stage's coupling"
    )
    second: Slot[Aggregator] = Field(
        "mean", validate_default=True, description="aggregator of the second coupling"
    )
    second_coupler: Slot[Coupler] = Field(
        "nearest", validate_default=True, description="coupler of the second coupling"
    )
    second_cost: str = Field(
        "cosine", description="cost term of the stage that the second coupler sees, unweighted"
    )
    share: float = Field(0.1, ge=0, le=1, description="weight of the second merge")


class BlendAggregator(Aggregator):
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

    config: BlendConfig

    def __init__(self, config: BlendConfig) -> None:
        super().__init__(config)
        self.first = build(Aggregator, config.first)
        self.second = build(Aggregator, config.second)
        self.second_coupler = build(Coupler, config.second_coupler)

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


class KeepOnlyAggregator(Aggregator):
    """Keep the anchors and drop everything else: pruning.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    AOT, arXiv 2603.01400, Table 4, "No Merging". Written from the paper.
    Differs: nothing.
    """

    merges = False

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the identity on the anchors."""
        plan = coupling.plan
        anchors = torch.ones(
            (*plan.shape[:-2], plan.shape[-1]), dtype=plan.dtype, device=plan.device
        )
        return MergeWeights(anchors, torch.zeros_like(plan))
