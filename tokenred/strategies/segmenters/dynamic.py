"""Dynamic segments: cut where neighbouring frames differ most (DySeg)."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import InputError
from tokenred.types import Segments


class DynamicConfig(StrategyConfig):
    """Settings of the dynamic segmenter."""

    min_segments: int = Field(8, ge=1, description="segments at least (c)")
    tau: float = Field(0.8, ge=-1, le=1, description="similarities below this cut as well")
    short_video: Literal["clamp", "error"] = Field(
        "clamp", description="with fewer frames than segments: one a frame, or an error as released"
    )


class DynamicSegmenter:
    """Cut at the ``min_segments - 1`` lowest similarities of neighbouring frames and below ``tau``.

    Shapes
    ------
    descriptors : (frames, dim), any scale

    Raises
    ------
    InputError
        If ``short_video`` is ``error`` and there are fewer frames than ``min_segments``.

    Source
    ------
    AOT, arXiv 2603.01400, section 8, after FastVID's DySeg (LunarShen/FastVID@a40a109, MIT;
    commented out in TyroneLi/AOT@88455ee). Licence: written from our description.
    Differs: short videos are clamped by default; the earlier of equal similarities is cut.
    """

    static: ClassVar[bool] = False

    def __init__(self, config: DynamicConfig) -> None:
        self.config = config

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return at least ``min_segments`` segments."""
        frames = descriptors.shape[0]
        if frames < self.config.min_segments and self.config.short_video == "error":
            raise InputError(
                f"{self.config.min_segments} segments asked for, the video has {frames} frames"
            )
        similarity = neighbour_similarity(descriptors)
        n_cuts = min(self.config.min_segments - 1, frames - 1)
        lowest = similarity.argsort(stable=True)[:n_cuts].tolist()
        below = (similarity < self.config.tau).nonzero()[:, 0].tolist()
        cuts = sorted({cut + 1 for cut in (*lowest, *below)})
        return Segments((0, *cuts, frames))


def neighbour_similarity(
    descriptors: Float[Tensor, "frames dim"],
) -> Float[Tensor, "gaps"]:
    """Return the cosine similarity of every frame with the next."""
    unit = F.normalize(descriptors.float(), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)
