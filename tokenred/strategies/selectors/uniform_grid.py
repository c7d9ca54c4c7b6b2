"""Evenly spaced anchors, blind to the content."""

import torch
from torch import Tensor

from tokenred.interfaces import AnchorSelector
from tokenred.types import VisualTokens


class UniformGridSelector(AnchorSelector):
    """Select the tokens nearest to the centres of ``n_anchors`` near-square boxes.

    The frame is cut into rows of boxes of equal height; the boxes of a row are equally wide. Any
    number of anchors up to the number of tokens can be had. The same anchors in every frame.

    Shapes
    ------
    returns : (frames, n_anchors)

    Source
    ------
    Our own control, in the spirit of plain down-sampling (VTC-Bench).
    Differs: nothing to differ from.
    """

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the same ``n_anchors`` indices for every frame."""
        index = torch.tensor(spread(tokens.grid, n_anchors), device=tokens.features.device)
        if not bool(tokens.keep.all()):
            index = _nearest_alive(tokens, index)
            return index
        return index.expand(tokens.features.shape[0], -1)


def spread(grid: tuple[int, int], n: int) -> list[int]:
    """Return ``n`` distinct raster indices spread evenly over ``grid``."""
    rows, columns = grid
    lines = min(rows, max(1, round((n * rows / columns) ** 0.5), -(-n // columns)), n)
    chosen = []
    for line in range(lines):
        row = (2 * line + 1) * rows // (2 * lines)
        boxes = n * (line + 1) // lines - n * line // lines
        chosen += [row * columns + (2 * box + 1) * columns // (2 * boxes) for box in range(boxes)]
    return chosen


def _nearest_alive(tokens: VisualTokens, index: Tensor) -> Tensor:
    # Dropped tokens are replaced by the nearest raster neighbours that are alive.
    distance = (torch.arange(tokens.keep.shape[1], device=index.device)[:, None] - index).abs()
    order = distance.min(dim=1).values.float().expand(tokens.keep.shape)
    return order.masked_fill(~tokens.keep, torch.inf).argsort(dim=-1, stable=True)[:, : len(index)]
