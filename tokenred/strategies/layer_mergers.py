"""Mergers inside the LLM: what becomes of the tokens that a ranking drops."""

from torch import Tensor

from tokenred.interfaces import LayerMerger
from tokenred.types import LayerState


class DropMerger(LayerMerger):
    """Leave the kept tokens as they are and the others behind.

    Shapes
    ------
    kept : (kept,), dropped : (dropped,)      returns : (kept, dim) and (0, dim)

    Source
    ------
    FastV, arXiv 2403.06764; PyramidDrop, arXiv 2410.17247. Written from our description.
    Differs: nothing.
    """

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states, and none."""
        return state.hidden[kept], state.hidden[:0]
