"""The one place where a reduction's linear map meets the features."""

from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.kernels.similarity import pieces
from tokenred.types import MergeWeights


def apply_merge(
    anchors: Float[Tensor, "*batch anchors dim"],
    sources: Float[Tensor, "*batch sources dim"],
    weights: MergeWeights,
) -> Float[Tensor, "*batch anchors dim"]:
    """Return ``anchor_weight * anchors + source_weight^T @ sources`` in the features' dtype.

    One GEMM in float32 (float64 if features or weights have it), rounded once at the end.
    """
    dtype = torch.promote_types(weights.source.dtype, anchors.dtype)
    shipped = _combine(weights.source.to(dtype).mT, sources, dtype)
    merged = shipped.addcmul_(weights.anchor.to(dtype)[..., None], anchors.to(dtype))
    return merged.to(anchors.dtype)


def merge_among(
    tokens: Float[Tensor, "batch tokens dim"],
    anchors: Int[Tensor, "batch anchors"],
    weights: MergeWeights,
) -> Float[Tensor, "batch anchors dim"]:
    """Return ``apply_merge(tokens[anchors], tokens, weights)``, all tokens being sources.

    What an anchor keeps of itself is folded into the weights, so that one GEMM does everything and
    no token is gathered. Tokens that are no sources have weight zero.

    bfloat16 features are multiplied as such where the processor can: to round the weights adds less
    to the error than to round the result does (measured: 0.19 in place of 0.17 % at most).
    """
    dtype = torch.promote_types(weights.source.dtype, tokens.dtype)
    own = weights.anchor.to(dtype)[..., None]
    folded = weights.source.to(dtype).mT.scatter_add(-1, anchors[..., None], own)
    half = tokens.dtype == torch.bfloat16 and dtype == torch.float32
    if half and not _grows(folded, tokens) and _multiplies_bfloat16(tokens):
        return torch.bmm(folded.to(tokens.dtype), tokens)
    return _combine(folded, tokens, dtype).to(tokens.dtype)


def _combine(weights: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``weights @ tokens`` in a wider dtype, without a wide copy of all tokens."""
    if tokens.dtype == dtype or _grows(weights, tokens) or tokens.ndim != 3:
        return weights @ tokens.to(dtype)
    out = tokens.new_empty((*weights.shape[:-1], tokens.shape[-1]), dtype=dtype)
    for piece in pieces(len(tokens), tokens[:1].numel()):
        torch.bmm(weights[piece], tokens[piece].to(dtype), out=out[piece])
    return out


def _grows(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _multiplies_bfloat16(tokens: Tensor) -> bool:
    return tokens.is_cuda or _processor_multiplies_bfloat16()


@cache
def _processor_multiplies_bfloat16() -> bool:
    # Older versions of torch do not say, and emulate it slowly where it is not there.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def gather_tokens(
    values: Float[Tensor, "*batch tokens dim"], index: Int[Tensor, "*batch chosen"]
) -> Float[Tensor, "*batch chosen dim"]:
    """Pick tokens by index, item by item."""
    return torch.gather(values, -2, index[..., None].expand(*index.shape, values.shape[-1]))


def padded_index(
    mask: Bool[Tensor, "frames tokens"],
) -> tuple[Int[Tensor, "frames most"], Bool[Tensor, "frames most"]]:
    """Return the indices of True in raster order, padded to the longest row, and which are real.

    Padding repeats the first index of its row, so that it adds no value a real entry has not.
    """
    counts = mask.sum(-1)
    most = int(counts.max())
    order = torch.argsort((~mask).to(torch.uint8), dim=-1, stable=True)[:, :most]
    real = torch.arange(most, device=mask.device) < counts[:, None]
    return order.where(real, order[:, :1]), real
