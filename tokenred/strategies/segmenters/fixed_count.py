"""A fixed number of segments."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import InputError
from tokenred.types import Segments


class FixedCountConfig(StrategyConfig):
    """Settings of the fixed-count segmenter."""

    n_segments: int = Field(8, ge=1, description="segments; never more than frames")
    only_frames: tuple[int, ...] = Field(
        (), description="frame counts that are accepted; empty: all (released AOT: 32 and 64)"
    )


class FixedCountSegmenter:
    """Cut the video into ``n_segments`` runs whose lengths differ by one frame at most.

    Shapes
    ------
    descriptors : (frames, dim), only the count is read

    Raises
    ------
    InputError
        If ``only_frames`` is set and the video has another number of frames.

    Source
    ------
    TyroneLi/AOT@88455ee ``iter_segments``: 32 frames -> 8 clips of 4, 64 -> 8 of 8.
    Licence of source: Apache-2.0 (written from our description).
    Differs: any number of frames unless ``only_frames`` says otherwise.
    """

    static: ClassVar[bool] = True

    def __init__(self, config: FixedCountConfig) -> None:
        self.config = config

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return ``min(n_segments, frames)`` segments."""
        frames = descriptors.shape[0]
        allowed = self.config.only_frames
        if allowed and frames not in allowed:
            raise InputError(f"this segmenter accepts {allowed} frames, the video has {frames}")
        count = min(self.config.n_segments, frames)
        return Segments(tuple(frames * i // count for i in range(count + 1)))
