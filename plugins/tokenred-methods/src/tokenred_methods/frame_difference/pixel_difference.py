"""How much the pixels of two tokens differ."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.interfaces import CostTerm
from tokenred.types import TokenGroup


class PixelDifferenceConfig(CostTermConfig):
    """Settings of the pixel difference."""

    frame: int = Field(
        0,
        ge=-(2**20),
        le=2**20,
        description="which of the frames that a source stands for: 0 the first, -1 the last",
    )
    reference_frame: int = Field(
        -1,
        ge=-(2**20),
        le=2**20,
        description="which of the frames that an anchor stands for; released: 0, and frame: -1",
    )


class PixelDifferenceCost(CostTerm):
    """Cost: mean absolute difference of the pixels of source and anchor, from 0 to 1.

    Where a token stands for several frames (two with Qwen's towers), the first frame of the source
    is compared with the last of the anchor, its neighbour in time.

    Shapes
    ------
    cue ``pixels@FRAME`` : (*batch, n, 3 * pixels); returns (*batch, sources, anchors) in float32

    Source
    ------
    TimeChat-Online, arXiv 2504.17343; yaolinli/TimeChat-Online@25a1578 ``token_drop``, method
    ``pixel``. Licence of source: BSD-3-Clause (written from our description).
    Differs: neighbouring frames are compared; the release has the last frame of the source and the
    first of the anchor, three frames apart with Qwen (``frame: -1, reference_frame: 0``). Mean and
    deviation of the pixels are those of the model's family; the release writes down CLIP's.
    """

    config: PixelDifferenceConfig
    pairwise = True

    @property
    def needs(self) -> frozenset[str]:
        """The cues with the pixels."""
        return frozenset((self._name(self.config.frame), self._name(self.config.reference_frame)))

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of every (source, anchor) pair."""
        left = _wide(sources.cues[self._name(self.config.frame)])
        right = _wide(anchors.cues[self._name(self.config.reference_frame)])
        return torch.cdist(left, right, p=1.0) / left.shape[-1]

    def _name(self, frame: int) -> str:
        return f"pixels@{frame}"


def _wide(pixels: Tensor) -> Tensor:
    return pixels.to(torch.promote_types(pixels.dtype, torch.float32))
