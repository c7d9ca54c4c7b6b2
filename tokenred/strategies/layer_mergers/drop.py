"""No merging inside the LLM."""

from typing import ClassVar

from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import LayerState


class DropConfig(StrategyConfig):
    """No settings."""


class DropMerger:
    """Leave the kept tokens as they are and the others behind.

    Shapes
    ------
    kept : (kept,), dropped : (dropped,)      returns : (kept, dim) and (0, dim)

    Source
    ------
    FastV, arXiv 2403.06764; PyramidDrop, arXiv 2410.17247. Written from our description.
    Differs: nothing.
    """

    makes: ClassVar[bool] = False

    def __init__(self, config: DropConfig) -> None:
        self.config = config

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states, and none."""
        return state.hidden[kept], state.hidden[:0]
