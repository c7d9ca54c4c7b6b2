"""Cost terms: what moving a source to an anchor costs."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import CostTermConfig, StrategyConfig, TokenCue
from tokenred.interfaces import CostTerm
from tokenred.kernels.similarity import cosine_similarity
from tokenred.types import TokenGroup


class OfConfig(CostTermConfig):
    """Settings of costs that compare vectors."""

    of: TokenCue = Field("features", description="what is compared: 'features' or a per-token cue")


def raw_vectors(group: TokenGroup, of: str) -> Tensor:
    """Return (*batch, n, width) in the dtype they have; a cue of one number has width 1."""
    values = group.features if of == "features" else group.cues[of]
    return values[..., None] if values.ndim == group.features.ndim - 1 else values


def vectors(group: TokenGroup, of: str) -> Tensor:
    """Return (*batch, n, width) in float32 (float64 stays); a cue of one number has width 1."""
    values = raw_vectors(group, of)
    return values.to(torch.promote_types(values.dtype, torch.float32))


class _VectorCost(CostTerm):
    """A cost that compares vectors."""

    config: OfConfig

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared, if it is one."""
        of = self.config.of
        return frozenset() if of == "features" else frozenset({of})


class CosineConfig(OfConfig):
    """Settings of the cosine cost."""

    clip: float = Field(
        0.0, ge=0, lt=1, description="similarities are clipped to +-(1 - clip); released AOT: 1e-6"
    )
    shift: Literal["none", "minimum"] = Field(
        "none", description="'minimum' subtracts the smallest cost of each problem, as released"
    )


class CosineCost(_VectorCost):
    """Cost ``1 - cos(source, anchor)``, from 0 (same direction) to 2 (opposite).

    Of the features, or of a cue such as ``keys@-1``.

    Shapes
    ------
    sources.features : (*batch, sources, dim), anchors.features : (*batch, anchors, dim), any float
    dtype; returns (*batch, sources, anchors) in float32 (float64 stays)

    Source
    ------
    AOT, arXiv 2603.01400, Eqs. 9 and 13; TyroneLi/AOT@88455ee. Licence of source: Apache-2.0
    (written from our description).
    Differs: norms are floored at 1e-8; ``clip`` and ``shift`` are the release's inter-frame form.
    """

    config: CosineConfig
    allows_repeats = True

    @property
    def pairwise(self) -> bool:
        """Whether a price depends on its pair alone: not on the problem's smallest."""
        return self.config.shift == "none"

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of every (source, anchor) pair."""
        of, clip = self.config.of, self.config.clip
        cost = cosine_similarity(raw_vectors(sources, of), raw_vectors(anchors, of))
        # In place where no gradient needs what was there before.
        out = None if cost.requires_grad else cost
        if clip:
            cost = torch.clamp(cost, clip - 1, 1 - clip, out=out)
        cost = torch.add(torch.neg(cost, out=out), 1, out=out)
        if self.config.shift == "minimum":
            cost = torch.sub(cost, cost.amin(dim=(-2, -1), keepdim=True), out=out)
        return cost


class EuclideanCost(_VectorCost):
    """Cost of the Euclidean distance, divided by the root of the width.

    Shapes
    ------
    sources.features : (*batch, sources, dim), anchors.features : (*batch, anchors, dim), any float
    dtype; returns (*batch, sources, anchors) in float32 (float64 stays)

    Source
    ------
    The distance of DPC-KNN in PruneVid (Visual-AI/PruneVid@b12600c) and HoliTom
    (cokeshao/HoliTom@e9b2972). Licence of source: CC BY-NC-SA 4.0 and Apache-2.0 (written from our
    description).
    Differs: nothing.
    """

    pairwise = True

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of every (source, anchor) pair."""
        left, right = (vectors(group, self.config.of) for group in (sources, anchors))
        return torch.cdist(left, right) / left.shape[-1] ** 0.5


class SpatialCost(CostTerm):
    """Euclidean distance of two tokens on the grid, both axes scaled to [0, 1].

    Shapes
    ------
    positions : (*batch, n, 2); returns (*batch, sources, anchors), between 0 and sqrt(2)

    Source
    ------
    TyroneLi/AOT@88455ee ``token_merging_siglip_with_OTA`` (weight 0.5 there; the paper has no such
    term). Licence of source: Apache-2.0 (written from our description).
    Differs: computed in float32 without the matrix-product form, so short distances are exact.
    """

    pairwise = True

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the distance of every (source, anchor) pair."""
        return torch.cdist(
            sources.positions, anchors.positions, compute_mode="donot_use_mm_for_euclid_dist"
        )


class TemporalConfig(CostTermConfig):
    """Settings of the temporal cost."""

    sigma_frames: float = Field(
        1.5, ge=1e-3, le=1e6, description="width of the gap kernel, in frames"
    )
    max_gap_frames: float | None = Field(
        None, gt=0, le=1e6, description="pairs further apart are forbidden; null: no limit"
    )


class TemporalCost(CostTerm):
    """Cost ``1 - exp(-gap^2 / (2 sigma^2))`` of the frames between source and anchor.

    Multiplied with another term (``combine: product``) it scales that term down for neighbouring
    frames: by 0.20, 0.59 and 0.86 for gaps of 1, 2 and 3 frames.

    Shapes
    ------
    times : (*batch, n) frames; returns (*batch, sources, anchors), between 0 and 1

    Source
    ------
    TyroneLi/AOT@88455ee ``ota_merge_N_to_M_time`` (the paper has no such term). Licence of source:
    Apache-2.0 (written from our description).
    Differs: nothing; the release's 1e-9 in the denominator is kept.
    """

    config: TemporalConfig
    pairwise = True

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of the time gap of every pair."""
        return 1 - torch.exp(
            -(_gap(sources, anchors) ** 2) / (2 * self.config.sigma_frames**2 + 1e-9)
        )

    def forbids(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor | None:
        """Return the pairs that are too far apart."""
        most = self.config.max_gap_frames
        return None if most is None else _gap(sources, anchors) > most


def _gap(sources: TokenGroup, anchors: TokenGroup) -> Tensor:
    return (sources.times[..., :, None] - anchors.times[..., None, :]).abs()


class AlignedCost(CostTerm):
    """Cost nothing, and forbid all pairs but those in the same place of their frames.

    Beside a cost of features it pins every source to the token in its own place.

    Shapes
    ------
    positions : (*batch, n, 2); returns (*batch, sources, anchors)

    Source
    ------
    The comparison of like places in DyCoke (KD-TAO/DyCoke@dd74634), DTD
    (yaolinli/TimeChat-Online@25a1578) and EVS (vllm-project/vllm@926c71f). Licence of source:
    Apache-2.0, BSD-3-Clause, Apache-2.0 (written from our description).
    Differs: a source whose place has no anchor goes nowhere.
    """

    config: StrategyConfig  # type: ignore[assignment]
    pairwise = True

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return zeros."""
        left, right = sources.positions, anchors.positions
        return left.new_zeros((*left.shape[:-1], right.shape[-2]))

    def forbids(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the pairs in different places."""
        left, right = sources.positions[..., :, None, :], anchors.positions[..., None, :, :]
        return (left != right).any(-1)
