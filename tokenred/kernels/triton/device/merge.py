"""The linear map of a merge, applied: anchors plus a product of weights and tokens."""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _product(weights, x, total, MODE: tl.constexpr):
    """Add ``weights^T x`` in float32; the weights keep their float32 bits in every mode."""
    left = tl.trans(weights)
    if MODE == "bfloat16":  # two bfloat16 terms hold 16 bits of a weight
        high = left.to(tl.bfloat16)
        low = (left - high.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(low, x, tl.dot(high, x, total))
    if MODE == "float16":  # a float16 fits in tf32, and so do both halves of a weight
        high = (left.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        wide = x.to(tl.float32)
        total = tl.dot(high, wide, total, input_precision="tf32")
        return tl.dot(left - high, wide, total, input_precision="tf32")
    return tl.dot(left, x.to(tl.float32), total, input_precision="ieee")


@triton.jit
@no_type_check
def merge(
    tokens,
    anchors,
    index,
    weights,
    own,
    source_weight,
    out,
    tokens_b,
    tokens_n,
    tokens_d,
    anchors_b,
    anchors_m,
    anchors_d,
    index_b,
    index_m,
    weights_b,
    weights_n,
    weights_m,
    own_b,
    own_m,
    source_b,
    source_n,
    n,
    m,
    d,
    strength,
    INDEXED: tl.constexpr,
    AVERAGE: tl.constexpr,
    WEIGHED: tl.constexpr,
    MODE: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
):
    """Write ``own_j a_j + sum_i w_ij x_i``, divided by the sum of its weights if AVERAGE."""
    b = tl.program_id(2).to(tl.int64)
    j = tl.program_id(1) * BM + tl.arange(0, BM)
    k = tl.program_id(0) * BD + tl.arange(0, BD)
    i = tl.arange(0, BN)
    weights += b * weights_b
    tokens += b * tokens_b
    total = tl.zeros([BM, BD], tl.float32)
    shipped = tl.zeros([BM], tl.float32)
    for start in range(0, n, BN):
        row = start + i
        at = weights + row[:, None] * weights_n + j[None, :] * weights_m
        w = tl.load(at, mask=(row < n)[:, None] & (j < m)[None, :], other=0.0)
        if WEIGHED:
            q = tl.load(source_weight + b * source_b + row * source_n, mask=row < n, other=0.0)
            w = w * q[:, None]
        w = w * strength
        x_at = tokens + row[:, None] * tokens_n + k[None, :] * tokens_d
        x = tl.load(x_at, mask=(row < n)[:, None] & (k < d)[None, :], other=0.0)
        if AVERAGE:
            shipped += tl.sum(w, axis=0)
        total = _product(w, x, total, MODE)
    place = j
    if INDEXED:
        place = tl.load(index + b * index_b + j * index_m, mask=j < m, other=0)
    inside = (j < m)[:, None] & (k < d)[None, :]
    a = tl.load(
        anchors + b * anchors_b + place[:, None] * anchors_m + k[None, :] * anchors_d,
        mask=inside,
        other=0.0,
    )
    keeps = tl.load(own + b * own_b + j * own_m, mask=j < m, other=1.0)
    if AVERAGE:
        whole = keeps + shipped
        # An anchor of no weight that is sent nothing stays as it is.
        keeps = tl.where(whole > 0.0, keeps, 1.0)
        whole = tl.where(whole > 0.0, whole, 1.0)
        total = (keeps[:, None] * a.to(tl.float32) + total) / whole[:, None]
    else:
        total = keeps[:, None] * a.to(tl.float32) + total
    at = out + b * m * d + j[:, None] * d + k[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=inside)
