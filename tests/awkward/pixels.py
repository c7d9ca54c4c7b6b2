"""Pictures that carry a number: twelve black and white cells that survive lossy coding."""

from typing import Any

import numpy as np

ROWS, COLUMNS = 3, 4
DARK, LIGHT = 40, 215
N_BITS = ROWS * COLUMNS - 2
"""The first cell is light and the last one dark, so that a turned picture has no number."""


def numbered(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Return a picture (height, width, 3) that carries a number below 1024."""
    assert 0 <= number < 2**N_BITS
    cells = [1, *(number >> bit & 1 for bit in range(N_BITS)), 0]
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grid = np.array(cells).reshape(ROWS, COLUMNS)[rows][:, columns]
    return np.repeat(np.where(grid, LIGHT, DARK).astype(np.uint8)[..., None], 3, axis=-1)


def read_number(picture: Any) -> int | None:
    """Return the number that a picture (height, width, 3) carries; None if it carries none."""
    grey = np.asarray(picture, dtype=np.float32).mean(-1)
    height, width = grey.shape
    cells = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            top, bottom = (int((row + part) * height / ROWS) for part in (0.3, 0.7))
            left, right = (int((column + part) * width / COLUMNS) for part in (0.3, 0.7))
            cells.append(grey[top : bottom + 1, left : right + 1].mean())
    first, *bits, last = cells
    if first - last < 60 or any(70 < each - last < first - last - 70 for each in bits):
        return None
    middle = (first + last) / 2
    return sum(int(each > middle) << bit for bit, each in enumerate(bits))


def read_numbers(frames: Any) -> list[int | None]:
    """Return the number of every frame."""
    return [read_number(np.asarray(frame)) for frame in frames]
