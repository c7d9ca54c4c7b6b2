"""How similar visual tokens are to the words of the question, as a cue."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import InputError

TEXT_SIMILARITY = "text-similarity"
"""Cosine of each visual token with the embedding of each token of the question."""


def text_similarity(
    visual: Float[Tensor, "frames tokens dim"], text: Float[Tensor, "words dim"]
) -> Float[Tensor, "frames tokens words"]:
    """Return the cosine of every visual token with every word, in float32.

    Parameters
    ----------
    visual : tokens behind the projector, in the space of the words
    text : embeddings of the words of the question

    Raises
    ------
    InputError
        If there is no word, or the shapes do not fit together.
    """
    if visual.ndim != 3 or text.ndim != 2 or visual.shape[-1] != text.shape[-1] or not len(text):
        raise InputError(
            "visual tokens are (frames, tokens, dim) and words (words, dim), at least one, got "
            f"shapes {tuple(visual.shape)} and {tuple(text.shape)}"
        )
    left, right = (F.normalize(each.detach().float(), dim=-1, eps=1e-8) for each in (visual, text))
    return torch.matmul(left, right.mT)
