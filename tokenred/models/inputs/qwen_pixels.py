"""Pixels as Qwen's vision towers read them: any size, cut into patches, frames in groups."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import InputError

LONGEST_SHAPE = 200
"""Sides may differ by this factor."""


def fitted_size(
    size: tuple[int, int],
    factor: int,
    bounds: tuple[int, int],
    *,
    n_frames: int = 1,
    frame_group: int = 1,
) -> tuple[int, int]:
    """Return the height and width to resize to.

    Both are multiples of ``factor``, the aspect ratio is kept approximately, and the number of
    pixels is within the bounds.

    Parameters
    ----------
    bounds : fewest and most pixels
    n_frames, frame_group : where the bounds hold for all frames of a video together, its frames,
        and how many of them the tower reads as one

    Raises
    ------
    InputError
        If one side is more than 200 times as long as the other, or there are too few frames.
    """
    height, width = size
    if n_frames < frame_group:
        raise InputError(f"a video needs at least {frame_group} frames here, got {n_frames}")
    if frame_group > 1 and min(size) < factor:  # so do the families that count all frames
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) > LONGEST_SHAPE * min(height, width):
        raise InputError(f"the aspect ratio may be at most {LONGEST_SHAPE}, got {height}x{width}")
    fewest, most = bounds
    rows, columns = round(height / factor), round(width / factor)
    pixels = round(n_frames / frame_group) * frame_group * rows * columns * factor**2
    if pixels > most:
        shrink = math.sqrt(n_frames * height * width / most)
        rows = max(1, math.floor(height / shrink / factor))
        columns = max(1, math.floor(width / shrink / factor))
    elif pixels < fewest:
        grow = math.sqrt(fewest / (n_frames * height * width))
        rows = math.ceil(height * grow / factor)
        columns = math.ceil(width * grow / factor)
    return rows * factor, columns * factor


def patches(
    frames: Float[Tensor, "frames 3 height width"], patch: int, merge: int, group: int
) -> tuple[Float[Tensor, "patches pixels"], tuple[int, int, int]]:
    """Cut frames into patches, in the order in which ``merge**2`` neighbours become one token.

    The last frame is repeated until the groups are full; so an image stands for a whole group.

    Returns
    -------
    The patches, and how many there are over time, height and width.
    """
    missing = -len(frames) % group
    frames = torch.cat((frames, frames[-1:].expand(missing, -1, -1, -1)))
    time, (height, width) = len(frames) // group, frames.shape[-2:]
    rows, columns = height // patch, width // patch
    cells = frames.reshape(
        time, group, 3, rows // merge, merge, patch, columns // merge, merge, patch
    )
    cut = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return cut.reshape(time * rows * columns, -1), (time, rows, columns)
