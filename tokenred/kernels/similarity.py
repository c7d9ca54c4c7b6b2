"""How alike two groups of tokens are: one matrix product of the features as they are.

Norms are divided out of the product, so that no normalised copy of the features is made.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK_BYTES = 1 << 24
"""What is made on the way, as float32 copies of half-precision features, is made in pieces of about
this size: small enough for an allocator to keep them, so that no page of them is new."""

SUMS_WIDE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)
"""Whether torch can multiply half-precision matrices on a GPU and give the sums in float32."""

FLOOR = 1e-8
"""Vectors shorter than this count as that long, so that a zero vector is like nothing."""


def cosine_similarity(
    left: Float[Tensor, "*batch n dim"], right: Float[Tensor, "*batch m dim"]
) -> Float[Tensor, "*batch n m"]:
    """Return the cosine of every pair in float32 (float64 stays), whatever the inputs' dtype.

    Half-precision values are exact in float32, and so are their products: only the sums round. The
    result is the transpose of a contiguous ``(*batch, m, n)``, the faster way round where ``right``
    is the smaller group. Differentiable; without a gradient it is scaled in place.
    """
    products, lengths = inner_products(left, right)
    inverse = [1 / each.clamp_min(FLOOR) for each in lengths]
    if products.requires_grad:
        return products * inverse[0][..., :, None] * inverse[1][..., None, :]
    return products.mul_(inverse[0][..., :, None]).mul_(inverse[1][..., None, :])


def inner_products(
    left: Float[Tensor, "*batch n dim"], right: Float[Tensor, "*batch m dim"]
) -> tuple[
    Float[Tensor, "*batch n m"], tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch m"]]
]:
    """Return the inner product of every pair, and the lengths of both groups, in float32 at least.

    The products are a tensor of their own, which the caller may change.
    """
    wide = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    grows = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    if left.dtype == right.dtype == wide or grows or left.ndim != 3 or right.ndim != 3:
        return _wide_products(left.to(wide), right.to(wide))
    if left.is_cuda and left.dtype == right.dtype and wide == torch.float32 and SUMS_WIDE:
        lengths = (_lengths(left, wide), _lengths(right, wide))
        return torch.bmm(right, left.mT, out_dtype=wide).mT, lengths
    parts = [
        _wide_products(left[piece].to(wide), right[piece].to(wide))
        for piece in pieces(len(left), left[:1].numel())
    ]
    return (
        torch.cat([products.mT for products, _ in parts]).mT,
        (torch.cat([each[0] for _, each in parts]), torch.cat([each[1] for _, each in parts])),
    )


def pieces(n_items: int, n_values: int, least: int = 1) -> list[slice]:
    """Cut items of ``n_values`` numbers each so that a piece has about ``CHUNK_BYTES`` in float32.

    ``least`` items are in a piece all the same.
    """
    each = max(least, CHUNK_BYTES // max(1, 4 * n_values))
    return [slice(start, min(start + each, n_items)) for start in range(0, n_items, each)]


def chunks(n_items: int, n_values: int, device: torch.device) -> list[slice]:
    """Cut independent problems into chunks that are solved at once.

    All at once, but on a CPU no more than make tensors of about ``CHUNK_BYTES``, or one for each
    thread, where ``n_values`` are in the largest tensor of a problem. What is needed beside the
    result then does not grow with the video.
    """
    if device.type != "cpu":
        return [slice(0, n_items)]
    return pieces(n_items, n_values, torch.get_num_threads())


def _wide_products(left: Tensor, right: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return (right @ left.mT).mT, (_lengths(left, left.dtype), _lengths(right, right.dtype))


def _lengths(vectors: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=dtype)
