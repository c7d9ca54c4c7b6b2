"""How much the patches of an image have to do with a text, by CLIP."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenred import InputError


def clip_relevance(image_embeds: Tensor, text_embeds: Tensor) -> Float[Tensor, "frames tokens"]:
    """Return CDPruner's relevance of every token: minus the cosine with the text, mean over texts.

    Patches that are less similar to the text score higher: so says the released code, perhaps since
    patches of CLIP point away from the texts that match them.

    Parameters
    ----------
    image_embeds : (frames, tokens, width) patches of ``hidden_states[-2]`` through CLIP's
        post-layernorm and visual projection
    text_embeds : (texts, width) CLIP text embeddings; a prompt that is too long comes in several
        pieces

    Raises
    ------
    InputError
        If the shapes do not fit together.

    Source
    ------
    CDPruner, arXiv 2506.10967; Theia-4869/CDPruner@9541616 ``encode_images``.
    Licence of source: Apache-2.0 (written from our description).
    """
    if image_embeds.ndim != 3 or text_embeds.ndim != 2:
        raise InputError(
            "image embeddings are (frames, tokens, width) and text embeddings (texts, width), got "
            f"shapes {tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}"
        )
    if image_embeds.shape[-1] != text_embeds.shape[-1] or len(text_embeds) == 0:
        raise InputError(
            f"{len(text_embeds)} text embeddings of width {text_embeds.shape[-1]} cannot be "
            f"compared with image embeddings of width {image_embeds.shape[-1]}"
        )
    image, text = (F.normalize(each.float(), dim=-1) for each in (image_embeds, text_embeds))
    return -(image @ text.mT).mean(-1)
