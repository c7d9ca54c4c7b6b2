"""One minus cosine similarity of the features."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.kernels.similarity import cosine_similarity
from tokenred.strategies.costs.of import OfConfig, raw_vectors
from tokenred.types import TokenGroup


class CosineConfig(OfConfig):
    """Settings of the cosine cost."""

    clip: float = Field(
        0.0, ge=0, lt=1, description="similarities are clipped to +-(1 - clip); released AOT: 1e-6"
    )
    shift: Literal["none", "minimum"] = Field(
        "none", description="'minimum' subtracts the smallest cost of each problem, as released"
    )


class CosineCost:
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

    allows_repeats: ClassVar[bool] = True

    def __init__(self, config: CosineConfig) -> None:
        self.config = config

    @property
    def pairwise(self) -> bool:
        """Whether a price depends on its pair alone: not on the problem's smallest."""
        return self.config.shift == "none"

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared, if it is one."""
        return self.config.needs

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
