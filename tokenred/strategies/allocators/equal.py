"""The same number of anchors for every frame."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import VisualTokens


class EqualConfig(StrategyConfig):
    """No settings."""


class EqualAllocator:
    """Give every frame the same number of anchors.

    Shapes
    ------
    returns : (frames,)

    Source
    ------
    Our own control: what nearly every method does.
    Differs: nothing to differ from.
    """

    rounding: ClassVar[Literal["nearest"]] = "nearest"
    needs: frozenset[str] = frozenset()

    def __init__(self, config: EqualConfig) -> None:
        self.config = config

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return ``n_anchors`` for every frame."""
        return torch.full((len(tokens.features),), float(n_anchors))
