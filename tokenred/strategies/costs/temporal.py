"""Gap in time."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.types import TokenGroup


class TemporalConfig(CostTermConfig):
    """Settings of the temporal cost."""

    sigma_frames: float = Field(1.5, gt=0, description="width of the gap kernel, in frames")
    max_gap_frames: float | None = Field(
        None, gt=0, description="pairs further apart are forbidden; null: no limit"
    )


class TemporalCost:
    """Cost ``1 - exp(-gap^2 / (2 sigma^2))`` of the frames between source and anchor.

    Multiplied with another term (``combine: product``) it scales that term down for neighbouring
    frames: by 0.20, 0.59 and 0.86 for gaps of 1, 2 and 3 frames.

    Shapes
    ------
    times : (*batch, n) frames; returns (*batch, sources, anchors), between 0 and 1

    Source
    ------
    TyroneLi/AOT@88455ee ``ota_merge_N_to_M_time`` (the paper has no such term). Licence of source:
    Apache-2.0 (written from our description).
    Differs: nothing; the release's 1e-9 in the denominator is kept.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, config: TemporalConfig) -> None:
        self.config = config

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of the time gap of every pair."""
        return 1 - torch.exp(
            -(_gap(sources, anchors) ** 2) / (2 * self.config.sigma_frames**2 + 1e-9)
        )

    def forbids(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor | None:
        """Return the pairs that are too far apart."""
        most = self.config.max_gap_frames
        return None if most is None else _gap(sources, anchors) > most


def _gap(sources: TokenGroup, anchors: TokenGroup) -> Tensor:
    return (sources.times[..., :, None] - anchors.times[..., None, :]).abs()
