"""Where selectors measure how alike two tokens are."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.types import VisualTokens

OF_TEXT = "what is compared: 'features', or a per-token cue such as 'tower' or 'keys@-2'"


def needs_of(of: str) -> frozenset[str]:
    """Return the cue that the setting ``of`` asks for, if it asks for one."""
    return frozenset() if of == "features" else frozenset({of})


def vectors_of(tokens: VisualTokens, of: str) -> Float[Tensor, "frames tokens width"]:
    """Return the vector of every token in float32."""
    vectors = tokens.features if of == "features" else tokens.cue(of)
    if vectors.ndim == 2:
        raise CapabilityError(f"cue '{of}' has one number a token; a similarity needs vectors")
    return vectors.float()


def unit_vectors(tokens: VisualTokens, of: str) -> Float[Tensor, "frames tokens width"]:
    """Return the vector of every token in float32, scaled to length one."""
    return F.normalize(vectors_of(tokens, of), dim=-1)


def products_with(
    vectors: Float[Tensor, "frames tokens width"], one: Float[Tensor, "frames width"]
) -> Float[Tensor, "frames tokens"]:
    """Return the inner product of every token of a frame with one vector of it."""
    return (vectors @ one[..., None])[..., 0]


def once(
    picks: Int[Tensor, "frames picks"],
) -> Int[Tensor, "frames picks"]:
    """Return picks without those that repeat an earlier one, and -1 behind what is left."""
    same = picks[:, :, None] == picks[:, None, :]
    repeats = same.tril(-1).any(-1)
    order = repeats.long().argsort(dim=-1, stable=True)
    return picks.masked_fill(repeats, -1).gather(-1, order)
