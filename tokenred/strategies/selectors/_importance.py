"""What selectors that rank by attention share."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.types import VisualTokens

LayerSpec = int | float
"""An index (negative counts from the end) or a share of the depth in (0, 1)."""


def attention_cue(layer: LayerSpec) -> str:
    """Return the name of the cue that holds the attention received at ``layer``."""
    return f"attention@{layer}"


def importance_of(tokens: VisualTokens, cue: str) -> Float[Tensor, "frames tokens"]:
    """Return a per-token cue in float32, minus infinity where a token was dropped before."""
    if cue not in tokens.cues:
        raise CapabilityError(f"the pipeline needs the cue '{cue}', which these tokens lack")
    return tokens.cues[cue].float().masked_fill(~tokens.keep, -torch.inf)


def top_index(
    importance: Float[Tensor, "frames tokens"], n_anchors: int
) -> Int[Tensor, "frames anchors"]:
    """Return the indices of the largest entries of each frame; the first of equals wins."""
    return importance.argsort(dim=-1, descending=True, stable=True)[:, :n_anchors]
