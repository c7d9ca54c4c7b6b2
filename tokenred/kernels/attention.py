"""Rows of attention maps, for strategies that look at a few queries only."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def attention_rows(
    query: Float[Tensor, "heads queries head_dim"],
    key: Float[Tensor, "key_heads tokens head_dim"],
    *,
    scaling: float | None = None,
    visible: Bool[Tensor, "queries tokens"] | None = None,
    log_weight: Float[Tensor, "tokens"] | None = None,
) -> Float[Tensor, "heads queries tokens"]:
    """Return the soft-max attention of each query over all keys, in float32.

    Parameters
    ----------
    scaling : factor on the scores, default ``head_dim ** -0.5``
    visible : keys that a query may see; default all
    log_weight : added to every score of a key; default nothing
    """
    key = key.repeat_interleave(query.shape[0] // key.shape[0], dim=0)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.mT).float() * scaling
    if log_weight is not None:
        scores = scores + log_weight.float()
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1)
