"""Every second frame is compared with the one before it, every fourth with the one two before."""

from collections.abc import Sequence

from pydantic import Field

from tokenred import StrategyConfig
from tokenred.errors import InputError
from tokenred.interfaces import FrameReference

GROUP = 4
"""Frames of a group in the release, which cuts nothing else."""


class DyadicConfig(StrategyConfig):
    """Settings of the dyadic reference."""

    released: bool = Field(
        False,
        description="as released: groups of four over the whole segment, the last of which keeps "
        "two frames whole; an odd last frame is lost; four frames or fewer are refused",
    )


class DyadicReference(FrameReference):
    """Compare frames with earlier ones at distances 1, 2, 4, ...; the first of a segment stays.

    The number of a frame loses its last binary digit that is one: in a segment of four, frames 1
    and 2 are compared with frame 0, and frame 3 with frame 2. Longer segments go on in the same
    way (4 with 0, 6 with 4), so every segment keeps one frame whole.

    Shapes
    ------
    returns : one index for each frame of the segment

    Raises
    ------
    InputError
        If ``released`` and the segment has four frames or fewer.

    Source
    ------
    DyCoke, arXiv 2411.15024; KD-TAO/DyCoke@dd74634 ``dycole_ttm``. Licence of source: Apache-2.0
    (written from our description).
    Differs: the last group is treated like the others, an odd last frame stays, and a video may be
    short, unless ``released``.
    """

    config: DyadicConfig

    @property
    def released(self) -> bool:
        """Whether it loses frames, and refuses segments, as the release does."""
        return self.config.released

    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return the frame that each frame is compared with."""
        if not self.config.released:
            return [frame & (frame - 1) if frame else 0 for frame in range(n_frames)]
        if n_frames <= GROUP:
            raise InputError(
                f"DyCoke's release needs more than {GROUP} frames, this segment has {n_frames}"
            )
        found: list[int | None] = [_released(frame, n_frames) for frame in range(n_frames)]
        if n_frames % 2:
            found[-1] = None
        return found


def _released(frame: int, n_frames: int) -> int:
    place = frame % GROUP
    start = frame - place
    if place % 2:
        return frame - 1
    return start if place == 2 and start < n_frames - GROUP else frame
