"""Place labels beside points without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

GAP = 7.0
"""Pixels between a point and its label."""

REACH = 160
"""Pixels that a label may be above or below its point."""

DISLIKE = 25.0
"""A place over a soft box is as bad as one that is this many pixels farther away."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y goes up."""

    left: float
    bottom: float
    right: float
    top: float

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of both sides."""
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


@dataclass(frozen=True)
class Label:
    """A point, and the size of its text in pixels."""

    point: tuple[float, float]
    width: float
    height: float


def place(
    labels: Sequence[Label], frame: Box, solid: Sequence[Box], soft: Sequence[Box] = ()
) -> list[Box | None]:
    """Return a box for each text; None where there is no room.

    Parameters
    ----------
    labels : the first ones have the first choice
    frame : no text leaves it
    solid : no text covers these
    soft : texts avoid these if they can, such as the whiskers of an interval
    """
    taken = [astuple(box) for box in solid]
    disliked = [astuple(box) for box in soft]
    places: list[Box | None] = []
    for label in labels:
        boxes, costs = _options(label)
        free = (boxes[:, :2] >= astuple(frame)[:2]) & (boxes[:, 2:] <= astuple(frame)[2:])
        possible = free.all(-1) & (_overlaps(boxes, taken) == 0)
        if possible.any():
            costs = costs + DISLIKE * _overlaps(boxes, disliked)
            left, bottom, right, top = boxes[np.where(possible, costs, np.inf).argmin()].tolist()
            places.append(Box(left, bottom, right, top))
            taken.append((left, bottom, right, top))
        else:
            places.append(None)
    return places


def _options(label: Label) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return places around a point, (places, 4), and what each costs, (places,).

    Right is better than left, near than far; above and below only where the point is clear.
    """
    away = np.array([0.0, 10.0, 25.0, 50.0])
    across = np.concatenate([GAP + away, -GAP - away - label.width, [-label.width / 2]])
    price = np.concatenate([away, away + 3, [4.0]])
    along = np.arange(-REACH, REACH + 1, 4.0)
    dx, dy = (grid.ravel() for grid in np.meshgrid(across, along))
    costs = np.abs(dy) + np.meshgrid(price, along)[0].ravel()
    left = label.point[0] + dx
    bottom = label.point[1] + dy - label.height / 2
    boxes = np.stack([left, bottom, left + label.width, bottom + label.height], axis=-1)
    clear = (dx != -label.width / 2) | (np.abs(dy) >= label.height / 2 + GAP)
    return boxes[clear], costs[clear]


def _overlaps(boxes: NDArray[np.float64], others: Sequence[tuple[float, ...]]) -> NDArray[np.int64]:
    """Return how many of the others each box shares area with, (boxes,)."""
    if not others:
        return np.zeros(len(boxes), dtype=np.int64)
    other = np.array(others)
    below = boxes[:, None, :2] < other[None, :, 2:]
    above = other[None, :, :2] < boxes[:, None, 2:]
    return (below & above).all(-1).sum(-1)
