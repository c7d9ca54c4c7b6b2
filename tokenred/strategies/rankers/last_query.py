"""Rank by the attention of the prompt's last token."""

from typing import ClassVar

from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import LayerState


class LastQueryConfig(StrategyConfig):
    """No settings."""


class LastQueryRanker:
    """Score a token by the attention that the last token of the prompt gave it, mean over heads.

    The attention is that of the layer before, which has been computed anyway.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    FastV, arXiv 2403.06764; pkunlp-icler/FastV@d165972 ``LlamaModel.forward`` (no licence file at
    the root). HoliTom, arXiv 2505.21334, ranks alike. Written from our description.
    Differs: nothing.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"attention"})

    def __init__(self, config: LastQueryConfig) -> None:
        self.config = config

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the head mean of the last row."""
        last = candidates.new_tensor([state.last])
        return state.attention(last).mean(0)[0, candidates]
