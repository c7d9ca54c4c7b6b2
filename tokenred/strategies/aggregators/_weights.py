"""The one formula behind every averaging aggregator."""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.types import MergeWeights


def average(
    share: Float[Tensor, "*batch sources anchors"],
    strength: float = 1.0,
    own: Float[Tensor, "*batch anchors"] | None = None,
) -> MergeWeights:
    """Return ``(own_j x_j + strength * sum_i share_ij s_i) / (own_j + strength * sum_i share_ij)``.

    The weights of every anchor sum to one, so the result lies in the convex hull of its inputs.
    ``own`` is one by default; an anchor of no weight that is sent nothing stays as it is.
    """
    shipped = strength * share
    if own is None:
        total = 1 + shipped.sum(-2)
        return MergeWeights(1 / total, shipped / total[..., None, :])
    total = own + shipped.sum(-2)
    own, total = own.where(total > 0, 1.0), total.where(total > 0, 1.0)
    return MergeWeights(own / total, shipped / total[..., None, :])


def members(
    plan: Float[Tensor, "*batch sources anchors"],
) -> Float[Tensor, "*batch sources anchors"]:
    """Return 1 where an anchor has the largest entry of a row, the first of equals; 0 elsewhere.

    A source with an empty row belongs to no anchor.
    """
    chosen = torch.nn.functional.one_hot(plan.argmax(-1), plan.shape[-1]).to(plan.dtype)
    return chosen * (plan.sum(-1, keepdim=True) > 0)
