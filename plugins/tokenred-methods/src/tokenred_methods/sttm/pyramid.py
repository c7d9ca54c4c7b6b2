"""A pyramid of grids: every cell of a level covers up to four cells of the next finer one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One grid of the pyramid, cells in raster order.

    Attributes
    ----------
    features : (frames, cells, dim) average of what is alive in each cell
    alive : (frames, cells), False where no token of the cell is alive
    tokens : (frames, cells) number of live tokens in each cell
    share : (frames, tokens) weight of every token in the average of its cell
    cell : (tokens,) cell of every token
    children : (cells, 4) cells of the next finer level, row by row; -1 where there is none
    grid : rows and columns
    """

    features: Float[Tensor, "frames cells dim"]
    alive: Bool[Tensor, "frames cells"]
    tokens: Float[Tensor, "frames cells"]
    share: Float[Tensor, "frames tokens"]
    cell: Int[Tensor, "tokens"]
    children: Int[Tensor, "cells 4"] | None
    grid: tuple[int, int]


def pyramid(
    features: Float[Tensor, "frames tokens dim"],
    keep: Bool[Tensor, "frames tokens"],
    grid: tuple[int, int],
    *,
    by_tokens: bool,
) -> list[Level]:
    """Return the levels from the coarsest, which has two cells a side at most, to the tokens.

    A side of odd length keeps its first row (or column) unpaired. A cell is the mean of its live
    children, or of its live tokens (``by_tokens``), which differ where cells are of unequal size.
    """
    one = keep.to(features.dtype)
    cell = torch.arange(keep.shape[1], device=keep.device)
    levels = [Level(features * one[..., None], keep, one, one, cell, None, grid)]
    while max(levels[0].grid) > 2:
        levels.insert(0, _coarser(levels[0], by_tokens))
    return levels


def _coarser(fine: Level, by_tokens: bool) -> Level:
    (rows, columns), device = fine.grid, fine.cell.device
    grid = (rows + 1) // 2, (columns + 1) // 2
    row = (torch.arange(rows, device=device) + rows % 2) // 2
    column = (torch.arange(columns, device=device) + columns % 2) // 2
    parent = (row[:, None] * grid[1] + column).flatten()

    def total(values: Tensor) -> Tensor:
        out = values.new_zeros(values.shape[0], grid[0] * grid[1], *values.shape[2:])
        return out.index_add(1, parent, values)

    weight = fine.tokens if by_tokens else fine.alive.to(fine.tokens.dtype)
    whole = total(weight).clamp_min(1)
    weight = weight / whole[:, parent]
    return Level(
        total(weight[..., None] * fine.features),
        total(fine.alive.to(weight.dtype)) > 0,
        total(fine.tokens),
        fine.share * weight[:, fine.cell],
        parent[fine.cell],
        _children(fine.grid, grid, device),
        grid,
    )


def _children(
    fine: tuple[int, int], grid: tuple[int, int], device: torch.device
) -> Int[Tensor, "cells 4"]:
    """Return the four slots of every cell; only first rows and columns have empty ones."""
    pair = torch.arange(2, device=device)
    row = 2 * torch.arange(grid[0], device=device)[:, None] + pair - fine[0] % 2
    column = 2 * torch.arange(grid[1], device=device)[:, None] + pair - fine[1] % 2
    slots = row[:, None, :, None] * fine[1] + column[None, :, None, :]
    missing = (row < 0)[:, None, :, None] | (column < 0)[None, :, None, :]
    return slots.masked_fill(missing, -1).reshape(-1, 4)
