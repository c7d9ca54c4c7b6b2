"""Which patches are kept, merged and dropped, read from the linear map."""

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.errors import InputError
from tokenred.kernels.pooling import pooled_grid, pooling_matrix
from tokenred.pipeline.flow import NATIVE_STRIDE
from tokenred.types import ReducedTokens

NOTHING = 1e-6
"""Weights up to here are rounding errors."""


class Fate(IntEnum):
    """What happened to one patch of the encoder's grid."""

    UNREAD = 0
    """The model's own pooling passes it over, reduced or not."""
    DROPPED = 1
    """It has no weight in any token."""
    MERGED = 2
    """It only has weight in tokens that stand elsewhere."""
    KEPT = 3
    """It has weight in a token that stands in its place."""


@dataclass(frozen=True)
class Fates:
    """The fates of the patches of a clip, and the sources of its tokens.

    Attributes
    ----------
    patches : (frames, patches) a ``Fate`` each, raster order on the encoder's grid
    received : (kept,) sum of the weights of patches from elsewhere in each token
    """

    patches: Int[Tensor, "frames patches"]
    received: Float[Tensor, "kept"]

    @property
    def anchors(self) -> Bool[Tensor, "kept"]:
        """Tokens that others were merged into."""
        return self.received > NOTHING

    def count(self, fate: Fate) -> tuple[int, ...]:
        """Count the patches of each frame with a fate."""
        return tuple((self.patches == fate).sum(1).tolist())


def fates_of(reduced: ReducedTokens, grid: tuple[int, int], native_pool: str = "none") -> Fates:
    """Return the fate of every patch.

    A token stands on the LLM's grid, a patch on the encoder's. A patch is at home in the cells into
    which the model's pooling puts it; where a pipeline pools in its own way, in those that it
    overlaps.

    Parameters
    ----------
    reduced : with its trace
    grid : the encoder's, of one frame
    native_pool : the model's own pooling

    Raises
    ------
    InputError
        If there is no trace, or it does not fit the grid.
    """
    frames, patches = len(reduced.realised.tokens_per_frame), grid[0] * grid[1]
    if reduced.trace is None:
        raise InputError("figures are read from the trace; run the pipeline with trace=True")
    if tuple(reduced.trace.shape) != (len(reduced.features), frames * patches):
        raise InputError(
            f"a trace of shape {tuple(reduced.trace.shape)} does not map {frames} frames of "
            f"{grid[0]}x{grid[1]} patches to {len(reduced.features)} tokens"
        )
    trace = reduced.trace.detach().cpu().coalesce()
    (token, source), weight = trace.indices(), trace.values().float()
    real = weight.abs() > NOTHING
    token, source, weight = token[real], source[real], weight[real]
    frame, place = source // patches, source % patches
    cell = reduced.token_index.cpu()[token]
    at_home = home_cells(grid, reduced.grid, native_pool)[cell, place]
    at_home &= frame == reduced.frame_index.cpu()[token]
    fate = torch.full((frames * patches,), int(Fate.DROPPED))
    fate.view(frames, patches)[:, ~_read(grid, native_pool)] = int(Fate.UNREAD)
    fate[source] = int(Fate.MERGED)
    fate[source[at_home]] = int(Fate.KEPT)
    received = torch.zeros(trace.shape[0]).index_add(0, token[~at_home], weight[~at_home])
    return Fates(fate.view(frames, patches), received)


def home_cells(
    grid: tuple[int, int], cells: tuple[int, int], native_pool: str
) -> Bool[Tensor, "cells patches"]:
    """Return which patches are at home in which cells of a grid that is as fine or coarser."""
    if grid == cells:
        return torch.eye(grid[0] * grid[1], dtype=torch.bool)
    if pooled_grid(grid, native_pool, NATIVE_STRIDE) == cells:  # type: ignore[arg-type]
        mode = "average" if native_pool == "max" else native_pool
        return pooling_matrix(grid, mode, NATIVE_STRIDE) > NOTHING  # type: ignore[arg-type]
    rows, columns = (_overlap(*pair) for pair in zip(grid, cells))
    return torch.kron(rows.float(), columns.float()) > 0


def _overlap(patches: int, cells: int) -> Bool[Tensor, "cells patches"]:
    """Return which patches overlap which cells along one side."""
    found = torch.zeros(cells, patches, dtype=torch.bool)
    for cell in range(cells):
        first, last = cell * patches // cells, math.ceil((cell + 1) * patches / cells)
        found[cell, first:last] = True
    return found


def _read(grid: tuple[int, int], native_pool: str) -> Bool[Tensor, "patches"]:
    """Return which patches the unreduced model reads."""
    if native_pool in ("none", "max"):
        return torch.ones(grid[0] * grid[1], dtype=torch.bool)
    matrix = pooling_matrix(grid, native_pool, NATIVE_STRIDE)  # type: ignore[arg-type]
    return (matrix > NOTHING).any(0)
