"""Local anchors only: the most attended tokens of every window."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    LayerSpec,
    Windows,
    attention_cue,
    importance_of,
)
from tokenred.strategies.selectors.windows import window_mask
from tokenred.types import VisualTokens


class LocalConfig(StrategyConfig):
    """Settings of the local selector."""

    windows: tuple[Windows, Windows] = Field(
        (3, 3), description="rows and columns of windows in the grid"
    )
    layer: LayerSpec = Field(0.2, description="layer of the importance")


class LocalSelector(AnchorSelector):
    """Select the most attended tokens of every window at one (shallow) layer.

    The number is exact: what the windows do not divide goes to the best next tokens.

    Shapes
    ------
    cue ``attention@LAYER`` : (frames, tokens)      returns : (frames, tokens) bool mask

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 8; the row "w/o global anchors" of its Table 5.
    Licence of source: Apache-2.0 (written from our description).
    Differs: any grid, remainders handled.
    """

    config: LocalConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention of one layer."""
        return frozenset({attention_cue(self.config.layer)})

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return a mask with ``n_anchors`` True in every frame."""
        importance = importance_of(tokens, attention_cue(self.config.layer))
        return window_mask(importance, tokens.grid, self.config.windows, n_anchors, exact=True)
