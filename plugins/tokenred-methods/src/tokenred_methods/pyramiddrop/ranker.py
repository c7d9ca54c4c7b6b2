"""Attention that the next layer would give."""

from torch import Tensor

from tokenred.interfaces import TokenRanker
from tokenred.types import LayerState


class NextLayerRanker(TokenRanker):
    """Score a token by the attention that the prompt's last token would give it in the next layer.

    One row is computed with the next layer's own norm, queries and keys, so no attention has to be
    caught; mean over heads.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    PyramidDrop, arXiv 2410.17247; Cooperx521/PyramidDrop@6444f30 ``pdrop_rank_drop``. Licence of
    source: MIT (written from our description).
    Differs: grouped queries work; the release knows models with as many keys as queries only.
    """

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the head mean of the last row of the layer to come."""
        last = candidates.new_tensor([state.last])
        return state.probe(last, layer="next").mean(0)[0, candidates]
