"""The frame stage as FastVID's release has it."""

import torch
from torch import Tensor

from tokenred.stages.frame import FrameStage


class FastVidReleasedFrameStage(FrameStage):
    """Let the anchors of every frame of a segment take in its tokens on their own.

    A token goes to an anchor of each frame with anchors, and anchors of other frames are tokens.

    Source
    ------
    LunarShen/FastVID@a40a109 ``Qwen2Model.forward``. Licence of source: MIT (written from our
    description).
    Differs: nothing.
    """

    def _in_segment(self, anchors: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        hosts = anchors.any(-1).nonzero()
        frame = torch.arange(anchors.numel(), device=anchors.device) // anchors.shape[1]
        mine = (frame == hosts) & anchors.flatten()
        return mine, (anchors | sources).flatten() & ~mine
