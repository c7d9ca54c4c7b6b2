"""Two kinds of tokens: even ones merge into odd ones only."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.types import TokenGroup

FORBIDDEN = 1e6


class BipartiteCostConfig(CostTermConfig):
    """No settings; the weight stands beside the term."""


class BipartiteCost:
    """Keep even tokens apart: 1e6 for an even source and an even anchor, 0 for all other pairs.

    Tokens are numbered as the stage counts them in each frame, in raster order. Beside another cost
    term this makes a matching bipartite. A stage that does not count its tokens forbids nothing.

    Shapes
    ------
    rank : (*batch, n); returns (*batch, sources, anchors) in float32

    Source
    ------
    ToMe, arXiv 2210.09461; facebookresearch/ToMe@af95e4b ``bipartite_soft_matching``.
    Licence of source: CC-BY-NC-4.0 (written from our description).
    Differs: odd sources, which ToMe's own selection never leaves, may go anywhere.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, config: BipartiteCostConfig) -> None:
        self.config = config

    def cost(
        self, sources: TokenGroup, anchors: TokenGroup
    ) -> Float[Tensor, "*batch sources anchors"]:
        """Return the cost of every (source, anchor) pair."""
        if sources.rank is None or anchors.rank is None:
            return torch.zeros(
                (*sources.times.shape, anchors.times.shape[-1]), device=sources.times.device
            )
        odd = [rank % 2 for rank in (sources.rank, anchors.rank)]
        both_even = (odd[0][..., :, None] + odd[1][..., None, :]) == 0
        return FORBIDDEN * both_even.float()
