"""The one formula behind every averaging aggregator."""

from jaxtyping import Float
from torch import Tensor

from tokenred.types import MergeWeights


def average(share: Float[Tensor, "*batch sources anchors"], strength: float = 1.0) -> MergeWeights:
    """Return ``(x_j + strength * sum_i share_ij s_i) / (1 + strength * sum_i share_ij)``.

    The weights of every anchor sum to one, so the result lies in the convex hull of its inputs.
    """
    shipped = strength * share
    total = 1 + shipped.sum(-2)
    return MergeWeights(1 / total, shipped / total[..., None, :])
