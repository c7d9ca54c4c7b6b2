"""Whole numbers as FastVID's releases divide them: segment by segment, anchors from the end."""

import math
from collections.abc import Sequence

from tokenred import VisualTokens
from tokenred.types import Segments


def segments_of(tokens: VisualTokens) -> Segments:
    """Return the segments of a video, the whole of it if nothing cut it."""
    return tokens.segments or Segments((0, len(tokens.features)))


def floor(number: float) -> int:
    """Round down, but for what arithmetic in floats has lost."""
    return math.floor(round(number, 6))


def ceil(number: float) -> int:
    """Round up, but for what arithmetic in floats has added."""
    return math.ceil(round(number, 6))


def evenly(total: int, n: int) -> list[int]:
    """Split ``total`` into ``n`` whole parts, the first ones larger by one."""
    return [total // n + (i < total % n) for i in range(n)]


def context_counts(hosts: Sequence[int], total: int, every: int) -> dict[int, int]:
    """Give ``total`` context tokens to every-th hosts from the last one, the last ones first."""
    anchors = hosts[::-every]
    return dict(zip(anchors, evenly(total, len(anchors))))
