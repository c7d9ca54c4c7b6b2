"""The frame stage as VisionZip's release has it on models with newlines in the grid."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenred.kernels.merge import padded_index
from tokenred.pipeline.flow import Flow
from tokenred.stages.frame import FrameStage


class VisionZipReleasedFrameStage(FrameStage):
    """Mix the anchors up among their places: the i-th of a frame gets that of the selector's i-th.

    Source
    ------
    dvlab-research/VisionZip ``CLIPVisionTower_VisionZip``, where positions in order of attention
    meet tokens in raster order. Licence of source: Apache-2.0 (written from our description).
    Differs: nothing.
    """

    def _asks(self, count: int) -> bool:
        return True  # the order of the anchors matters even if all tokens are

    def _step(self, flow: Flow, tokens: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        anchors, rank = super()._step(flow, tokens, counts)
        _shuffle(flow, anchors, rank)
        return anchors, rank


def _shuffle(flow: Flow, anchors: Tensor, rank: Tensor) -> None:
    """Move the i-th anchor of every frame, in raster order, to the place of the selector's i-th."""
    n, size = anchors.shape[1], anchors.numel()
    start = torch.arange(0, size, n, device=anchors.device)[:, None]
    raster, real = padded_index(anchors)
    by_rank = rank.masked_fill(~anchors, n).argsort(dim=-1, stable=True)[:, : raster.shape[1]]
    source = torch.arange(size, device=anchors.device)
    source[(by_rank + start)[real]] = (raster + start)[real]
    flow.rearrange(source)
