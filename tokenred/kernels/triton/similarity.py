"""The cosine cost on a GPU: the features are read once, and no normalised copy is made."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.kernels.similarity import FLOOR
from tokenred.kernels.triton import available, interpreted

Precision = Literal["ieee", "tf32x3", "tf32"]

HALF_OPTIONS = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}
WIDE_OPTIONS = {"num_warps": 8, "num_stages": 2, "enable_fp_fusion": True}


def cosine_cost(
    tokens: Float[Tensor, "batch tokens dim"],
    anchors: Float[Tensor, "batch anchors dim"] | Int[Tensor, "batch anchors"],
    *,
    epsilon: float = 1.0,
    precision: Precision = "ieee",
) -> Float[Tensor, "batch tokens anchors"] | None:
    """Return ``(1 - cos) / epsilon`` of every token and anchor, or None where this cannot run.

    Parameters
    ----------
    tokens : float32, bfloat16 or float16, any strides; float64 is left to plain torch
    anchors : features of the same dtype, or indices of tokens, which are then read in their place
    epsilon : what the cost is divided by, in the cost's unit
    precision : of the product of float32 features: ``ieee`` is exact float32, ``tf32x3`` is within
        a few of its roundings and faster, ``tf32`` (2^-11) may change which tokens are selected

    Notes
    -----
    float32, contiguous. Products of half-precision features are exact and summed in float32.
    Lengths below 1e-8 count as 1e-8, so that a zero vector has cost 1. No host synchronisation.
    """
    indexed = not anchors.is_floating_point()
    half = tokens.dtype in (torch.bfloat16, torch.float16)
    if not (half or tokens.dtype == torch.float32) or not available(tokens, anchors):
        return None
    if not indexed and anchors.dtype != tokens.dtype:
        return None
    from tokenred.kernels.triton.device.similarity import cosine_cost as kernel

    batch, n, d = tokens.shape
    m = anchors.shape[1]
    out = torch.empty(batch, n, m, dtype=torch.float32, device=tokens.device)
    if min(batch, n, m) == 0:
        return out
    values = tokens if indexed else anchors
    index = anchors if indexed else torch.empty(0, 0, dtype=torch.int64, device=tokens.device)
    height, width, depth = tile(m, half)
    with torch.cuda.device_of(tokens):
        kernel[(-(-n // height), -(-m // width), batch)](
            *(tokens, values, index, out, *tokens.stride(), *values.stride(), *index.stride()),
            *(n, m, d, epsilon, FLOOR),
            INDEXED=indexed,
            PRECISION="tf32" if half else precision,
            BN=height,
            BM=width,
            BD=depth,
            EMULATE=interpreted(),
            **(HALF_OPTIONS if half else WIDE_OPTIONS),
        )
    return out


def tile(m: int, half: bool) -> tuple[int, int, int]:
    """Return rows, columns and depth of a tile: all anchors at once, up to 128 of them."""
    width = max(16, min(128, 1 << (m - 1).bit_length()))
    return 64, width, 64 if half else 32
