"""The cosine cost of every token and anchor: one matrix product with the norms beside it."""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def cosine_cost(
    tokens,
    anchors,
    index,
    out,
    tokens_b,
    tokens_n,
    tokens_d,
    anchors_b,
    anchors_m,
    anchors_d,
    index_b,
    index_m,
    n,
    m,
    d,
    epsilon,
    floor,
    INDEXED: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
    EMULATE: tl.constexpr,
):
    """Write ``(1 - cos) / epsilon``; squares are summed from the tiles that the product reads."""
    b = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * BN + tl.arange(0, BN)
    j = tl.program_id(1) * BM + tl.arange(0, BM)
    k = tl.arange(0, BD)
    row = j
    if INDEXED:
        row = tl.load(index + b * index_b + j * index_m, mask=j < m, other=0)
    left = tokens + b * tokens_b + i[:, None] * tokens_n + k[None, :] * tokens_d
    right = anchors + b * anchors_b + row[:, None] * anchors_m + k[None, :] * anchors_d
    product = tl.zeros([BN, BM], tl.float32)
    left_square = tl.zeros([BN], tl.float32)
    right_square = tl.zeros([BM], tl.float32)
    for start in range(0, d, BD):
        inside = k[None, :] < d - start
        x = tl.load(left + start * tokens_d, mask=(i < n)[:, None] & inside, other=0.0)
        a = tl.load(right + start * anchors_d, mask=(j < m)[:, None] & inside, other=0.0)
        wide_x, wide_a = x.to(tl.float32), a.to(tl.float32)
        left_square += tl.sum(wide_x * wide_x, axis=1)
        right_square += tl.sum(wide_a * wide_a, axis=1)
        if EMULATE:
            product = tl.dot(wide_x, tl.trans(wide_a), product, input_precision="ieee")
        else:
            product = tl.dot(x, tl.trans(a), product, input_precision=PRECISION)
    lengths = tl.maximum(tl.sqrt(left_square), floor)[:, None]
    cosine = product / lengths / tl.maximum(tl.sqrt(right_square), floor)[None, :]
    at = out + b * n * m + i[:, None] * m + j[None, :]
    tl.store(at, (1.0 - cosine) / epsilon, mask=(i < n)[:, None] & (j < m)[None, :])
