"""How similar visual tokens are to the words of the question, as a cue."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import InputError
from tokenred.kernels.similarity import FLOOR


def text_similarity(
    visual: Float[Tensor, "frames tokens dim"], text: Float[Tensor, "words dim"]
) -> Float[Tensor, "frames tokens words"]:
    """Return the product of every visual token with every word of length one, in float32.

    Divided by the length of the token it is their cosine. What is linear in the tokens, as pooling
    and merging are, is so in the products, which therefore stay right where tokens move.

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
    words = F.normalize(text.detach().float(), dim=-1, eps=FLOOR)
    return visual.detach().float() @ words.mT
