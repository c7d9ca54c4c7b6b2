"""Local-global anchors: half by shallow attention in windows, half by deep attention overall."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    TwoLayersConfig,
    Windows,
    importance_of,
    top_index,
)
from tokenred.strategies.selectors.windows import window_mask
from tokenred.types import VisualTokens


class LocalGlobalConfig(TwoLayersConfig):
    """Settings of the local-global selector."""

    windows: tuple[Windows, Windows] = Field(
        (3, 3), description="rows and columns of windows in the grid"
    )
    global_ratio: float = Field(0.5, ge=0, le=1, description="share of the anchors chosen globally")
    rounding: Literal["exact", "floor"] = Field(
        "exact", description="'floor' loses what the windows do not divide, as released"
    )


class LocalGlobalSelector(AnchorSelector):
    """Select anchors that are important locally or globally, without choosing one twice.

    ``int(n_anchors * (1 - global_ratio))`` anchors are the most attended tokens of each window at a
    shallow layer; the others are the most attended tokens of the frame at a deep layer, local
    anchors excluded. Works on any grid; remainders of the grid are spread over the windows.

    Shapes
    ------
    cues ``attention@LAYER`` : (frames, tokens)      returns : (frames, n_anchors), or a mask with
    fewer anchors when ``rounding`` is ``floor``

    Source
    ------
    AOT, arXiv 2603.01400, Eqs. 6-8; TyroneLi/AOT@88455ee ``encode_images_siglip_OTA``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: the release fixes the grid (27x27, 9x9 windows) and floors (``rounding: floor``).
    """

    config: LocalGlobalConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention of both layers."""
        return frozenset(self.config.cues)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return a (frames, tokens) bool mask of the anchors."""
        shallow, deep = (importance_of(tokens, cue) for cue in self.config.cues)
        local_budget = int(n_anchors * (1 - self.config.global_ratio))
        exact = self.config.rounding == "exact"
        mask = window_mask(shallow, tokens.grid, self.config.windows, local_budget, exact=exact)
        rest = top_index(deep.masked_fill(mask, -torch.inf), n_anchors - local_budget)
        return mask.scatter(-1, rest, True)
