"""The spatial pooling of LLaVA models, for features and for what travels with them."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PoolMode = Literal["bilinear", "average", "max", "none"]


def pooled_grid(grid: tuple[int, int], mode: PoolMode, stride: int) -> tuple[int, int]:
    """Return the grid after pooling: bilinear rounds up (27 -> 14), blocks down (27 -> 13)."""
    if mode == "none":
        return grid
    if mode == "bilinear":
        return math.ceil(grid[0] / stride), math.ceil(grid[1] / stride)
    return grid[0] // stride, grid[1] // stride


def pool_tokens(
    tokens: Float[Tensor, "frames tokens dim"],
    grid: tuple[int, int],
    mode: PoolMode,
    stride: int = 2,
) -> Float[Tensor, "frames pooled dim"]:
    """Pool a raster of tokens.

    ``bilinear`` is an interpolation without antialiasing, so a cell mixes at most 2x2 tokens;
    ``average`` and ``max`` take whole blocks and drop an odd last row and column.
    """
    if mode == "none":
        return tokens
    frames, _, dim = tokens.shape
    # Left with the channels last, as the tokens lie: no copy of them all, and none of the result.
    image = tokens.reshape(frames, *grid, dim).permute(0, 3, 1, 2)
    if mode == "bilinear":
        image = F.interpolate(image, size=pooled_grid(grid, mode, stride), mode="bilinear")
    elif mode == "average":
        image = F.avg_pool2d(image, stride)
    else:
        image = F.max_pool2d(image, stride)
    return image.permute(0, 2, 3, 1).reshape(frames, -1, dim)


def pooling_matrix(
    grid: tuple[int, int], mode: PoolMode, stride: int = 2
) -> Float[Tensor, "pooled tokens"]:
    """Return the pooling as a matrix, by pooling the unit vectors. ``max`` is no linear map."""
    if mode == "max":
        raise ValueError("max pooling is not a linear map")
    tokens = grid[0] * grid[1]
    return pool_tokens(torch.eye(tokens)[None], grid, mode, stride)[0]
