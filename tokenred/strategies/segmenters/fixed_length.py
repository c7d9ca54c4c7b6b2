"""Segments of equal length."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import Segments


class FixedLengthConfig(StrategyConfig):
    """Settings of the fixed-length segmenter."""

    segment_frames: int = Field(4, ge=1, description="frames of a segment; the last may be shorter")


class FixedLengthSegmenter:
    """Cut every ``segment_frames`` frames.

    Shapes
    ------
    descriptors : (frames, dim), only the count is read

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3 (uniform clips; the length is not stated there).
    Licence of source: written from the paper.
    Differs: any number of frames.
    """

    static: ClassVar[bool] = True

    def __init__(self, config: FixedLengthConfig) -> None:
        self.config = config

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return segments of ``segment_frames`` frames."""
        frames = descriptors.shape[0]
        return Segments((*range(0, frames, self.config.segment_frames), frames))
