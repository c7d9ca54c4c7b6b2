"""Merging on a GPU: the weights are read as they are, and the result is rounded once."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.kernels.triton import available, interpreted

MODES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
OPTIONS = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}


def apply_weights(
    tokens: Float[Tensor, "batch tokens dim"],
    anchors: Float[Tensor, "batch anchors dim"] | Int[Tensor, "batch anchors"],
    weights: Float[Tensor, "batch tokens anchors"],
    own: Float[Tensor, "batch anchors"],
) -> Float[Tensor, "batch anchors dim"] | None:
    """Return ``own * anchors + weights^T @ tokens``, or None where this cannot run.

    Parameters
    ----------
    tokens : float32, bfloat16 or float16, any strides
    anchors : features of the same dtype, or indices of tokens, which are then read in their place
    weights, own : float32; rows of zeros leave tokens out, so that none has to be gathered

    Notes
    -----
    In the dtype of the tokens, rounded once; sums in float32, weights with 16 bits or more whatever
    the features' dtype. No host synchronisation.
    """
    return _merged(tokens, anchors, weights, own, None, 1.0, average=False)


def average_plan(
    tokens: Float[Tensor, "batch tokens dim"],
    anchors: Float[Tensor, "batch anchors dim"] | Int[Tensor, "batch anchors"],
    plan: Float[Tensor, "batch tokens anchors"],
    *,
    own: Float[Tensor, "batch anchors"] | None = None,
    source_weight: Float[Tensor, "batch tokens"] | None = None,
    strength: float = 1.0,
) -> Float[Tensor, "batch anchors dim"] | None:
    """Average every anchor with what a plan ships to it, or return None where this cannot run.

    ``(own_j a_j + strength sum_i q_i T_ij x_i) / (own_j + strength sum_i q_i T_ij)``, as the
    aggregators ``mass-normalised`` (q = 1, or 1 / source mass for ``mass: unit``) and
    ``row-normalised`` (q = 1 / row sum) do; the weights are never written down.

    Parameters
    ----------
    tokens, anchors : as in ``apply_weights``
    plan : float32, any strides
    own : weight of the anchor itself, default 1
    source_weight : the factors q, default 1
    """
    if own is None:
        own = torch.ones(1, 1, dtype=torch.float32, device=tokens.device)
        own = own.expand(plan.shape[0], plan.shape[2])
    return _merged(tokens, anchors, plan, own, source_weight, strength, average=True)


def _merged(
    tokens: Tensor,
    anchors: Tensor,
    weights: Tensor,
    own: Tensor,
    source_weight: Tensor | None,
    strength: float,
    *,
    average: bool,
) -> Tensor | None:
    indexed = not anchors.is_floating_point()
    given = [t for t in (weights, own, source_weight) if t is not None]
    if tokens.dtype not in MODES or any(t.dtype != torch.float32 for t in given):
        return None
    if not available(tokens, anchors, *given) or not (indexed or anchors.dtype == tokens.dtype):
        return None
    from tokenred.kernels.triton.device.merge import merge

    batch, n, d = tokens.shape
    m = weights.shape[2]
    out = torch.empty(batch, m, d, dtype=tokens.dtype, device=tokens.device)
    if min(batch, m, d) == 0:
        return out
    values = tokens if indexed else anchors
    index = anchors if indexed else torch.empty(0, 0, dtype=torch.int64, device=tokens.device)
    factor = own if source_weight is None else source_weight
    width, depth, height = tile(m, tokens.dtype)
    with torch.cuda.device_of(tokens):
        merge[(-(-d // depth), -(-m // width), batch)](
            *(tokens, values, index, weights, own, factor, out),
            *(*tokens.stride(), *values.stride(), *index.stride()),
            *(*weights.stride(), *own.stride(), *factor.stride()),
            *(n, m, d, strength),
            INDEXED=indexed,
            AVERAGE=average,
            WEIGHED=source_weight is not None,
            MODE="float32" if interpreted() else MODES[tokens.dtype],
            BM=width,
            BD=depth,
            BN=height,
            **OPTIONS,
        )
    return out


def tile(m: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """Return anchors, features and tokens of a tile."""
    width = max(16, min(128, 1 << (m - 1).bit_length()))
    if dtype == torch.bfloat16:
        return width, 128, 64
    return width, 64, 32
