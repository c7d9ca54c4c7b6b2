"""Two kinds of tokens: even ones merge into odd ones only."""

from jaxtyping import Bool, Float
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import CostTerm
from tokenred.types import TokenGroup


class BipartiteCost(CostTerm):
    """Cost nothing, and forbid pairs of an even source and an even anchor.

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

    config: StrategyConfig  # type: ignore[assignment]
    pairwise = True

    def cost(
        self, sources: TokenGroup, anchors: TokenGroup
    ) -> Float[Tensor, "*batch sources anchors"]:
        """Return zeros."""
        return sources.times.new_zeros((*sources.times.shape, anchors.times.shape[-1]))

    def forbids(
        self, sources: TokenGroup, anchors: TokenGroup
    ) -> Bool[Tensor, "*batch sources anchors"] | None:
        """Return the pairs of two even tokens."""
        if sources.rank is None or anchors.rank is None:
            return None
        odd = [rank % 2 for rank in (sources.rank, anchors.rank)]
        return (odd[0][..., :, None] + odd[1][..., None, :]) == 0
