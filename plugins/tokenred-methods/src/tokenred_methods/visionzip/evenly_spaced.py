"""Every so-many-th of the tokens that are left, blind to the content."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import AnchorSelector


class EvenlySpacedConfig(StrategyConfig):
    """Settings of the evenly-spaced selector."""

    spacing: Literal["even", "whole-step"] = Field(
        "even",
        description="'even' spreads the anchors over all tokens; 'whole-step' rounds the step down "
        "and never reaches the tail, as released",
    )


class EvenlySpacedSelector(AnchorSelector):
    """Select evenly spaced tokens of each frame, counted in raster order among those still open.

    Of ``n`` open tokens ``even`` takes numbers ``ceil(i n / anchors)``. ``whole-step`` takes
    ``i * max(1, n // anchors)``, the same where ``anchors`` divides ``n``; otherwise the tokens
    behind the last step are nobody's neighbours (7 of 124: the last anchor is number 102).

    Shapes
    ------
    returns : (frames, n_anchors), in raster order

    Source
    ------
    VisionZip, arXiv 2412.04467; dvlab-research/VisionZip@3151f6d ``CLIPVisionTower_VisionZip``
    (contextual targets). Licence of source: Apache-2.0 (written from our description).
    Differs: ``spacing: even`` is ours; ``whole-step`` differs in nothing.
    """

    config: EvenlySpacedConfig

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices."""
        number = tokens.keep.cumsum(-1) - 1
        n_open = tokens.keep.sum(-1, keepdim=True).clamp_min(1)
        if self.config.spacing == "even":
            chosen = number * n_anchors % n_open < n_anchors
        else:
            step = (n_open // n_anchors).clamp_min(1)
            chosen = (number % step == 0) & (number // step < n_anchors)
        chosen &= tokens.keep
        return chosen.byte().argsort(dim=-1, descending=True, stable=True)[:, :n_anchors]
