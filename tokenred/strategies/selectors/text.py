"""What strategies that read the question share."""

from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.similarity import FLOOR
from tokenred.strategies.selectors.vectors import vectors_of
from tokenred.types import VisualTokens

TEXT_TEXT = "per-token cue with the product of the token with each word of the question"
TEXT_OF_TEXT = "which vectors the words were multiplied with: 'features' or a per-token cue"


def text_cosines(tokens: VisualTokens, cue: str, of: str) -> Float[Tensor, "frames tokens words"]:
    """Return the cosine of every token with every word of the question in float32."""
    return cosines(tokens.cue(cue), vectors_of(tokens, of))


def cosines(
    products: Float[Tensor, "..."], vectors: Float[Tensor, "*batch width"]
) -> Float[Tensor, "*batch words"]:
    """Return cosines with words, of products of vectors with words of length one."""
    length = vectors.norm(dim=-1, keepdim=True).clamp_min(FLOOR)
    wide = products if products.ndim == vectors.ndim else products[..., None]
    return wide.to(vectors.dtype) / length
