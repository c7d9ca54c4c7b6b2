"""From decoded frames to RGB pixels as a player shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenred.errors import InputError
from tokenred.video.limits import VideoLimits

_STRAIGHT = 0.01
"""Sine of the angle up to which a picture counts as upright: 0.6 degrees."""


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is to be turned: transposed, then rows and columns reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    is_exact: bool = True

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn a picture (height, width, 3)."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def orientation(frame: Any) -> Orientation:
    """Return how a frame is to be turned, from the matrix that the container gave it.

    It maps a stored place (x, y) to the place (a x + c y, b x + d y) on the screen, up to a shift.
    """
    try:
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)[:9]
    except (LookupError, ValueError):  # PyAV does not know every kind of side data
        return Orientation()
    a, b, _, c, d = (float(each) for each in matrix[:5])
    transpose = abs(b) + abs(c) > abs(a) + abs(d)
    small, large = sorted((abs(a) + abs(d), abs(b) + abs(c)))
    right, down = (c, b) if transpose else (a, d)
    return Orientation(transpose, down < 0, right < 0, small <= _STRAIGHT * large)


class Pictures:
    """The sampled frames, filled in as they are decoded; all take the size of the first.

    Parameters
    ----------
    indices : of the samples, in the video; some may repeat
    name : of the file, for errors
    """

    def __init__(self, indices: Sequence[int], limits: VideoLimits, name: str) -> None:
        self.indices = tuple(indices)
        self.remarks: dict[str, None] = {}
        self._limits, self._name = limits, name
        self._pixels: np.ndarray | None = None
        self._size = (0, 0)
        self._upright = Orientation()
        self._missing = set(self.indices)

    @property
    def wanted(self) -> list[int]:
        """Indices without repeats, in order."""
        return sorted(set(self.indices))

    @property
    def pixels(self) -> np.ndarray:
        """All samples, (frames, height, width, 3) uint8.

        Raises
        ------
        InputError
            If one has not been decoded.
        """
        if self._pixels is None or self._missing:
            raise InputError(f"{self._name} changed while it was read, or decodes anew differently")
        return self._pixels

    def take(self, index: int, frame: Any) -> None:
        """Fill in a frame wherever it is sampled.

        Raises
        ------
        InputError
            If it is larger than the limits allow, alone or all samples together.
        """
        size = (frame.height, frame.width)
        if self._pixels is None:
            what = f"pixels in a frame of {self._name} ({size[1]}x{size[0]})"
            self._limits.check("max_frame_pixels", size[0] * size[1], what)
            what = f"pixels in {len(self.indices)} frames of {self._name} ({size[1]}x{size[0]})"
            self._limits.check("max_pixels", len(self.indices) * size[0] * size[1], what)
            self._size, self._upright = size, orientation(frame)
            if not self._upright.is_exact:
                self.remarks[f"{self._name} is turned by an odd angle; the nearest side is up"] = (
                    None
                )
        elif size != self._size:
            self.remarks[
                f"{self._name} changes its size; all frames take the first one's, "
                f"{self._size[1]}x{self._size[0]}"
            ] = None
        height, width = self._size
        stored = frame.to_ndarray(format="rgb24", width=width, height=height)
        picture = self._upright.apply(stored)
        if self._pixels is None:
            self._pixels = np.empty((len(self.indices), *picture.shape), np.uint8)
        for place, each in enumerate(self.indices):
            if each == index:
                self._pixels[place] = picture
        self._missing.discard(index)
