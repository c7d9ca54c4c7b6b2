"""How much every place of the grid changes from one frame to the next."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def consecutive_similarity(
    features: Float[Tensor, "frames tokens dim"],
) -> Float[Tensor, "gaps tokens"]:
    """Return the cosine of every token with the one at its place in the next frame, in float32."""
    unit = F.normalize(features.float(), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)
