"""The pixels that a token stands for, as a cue: in [0, 1], in the order of the tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def square_pixels(
    pixels: Float[Tensor, "frames 3 height width"], patch: int, normalisation: Mapping[str, Any]
) -> Float[Tensor, "frames tokens values"]:
    """Cut frames into the patches of a ViT; what is over at the right and below it does not read.

    Parameters
    ----------
    normalisation : ``image_mean`` and ``image_std`` that were applied to the pixels

    Returns
    -------
    Pixels in float32, ``values`` = 3 channels x patch x patch.
    """
    cut = pixels.detach().float().unfold(2, patch, patch).unfold(3, patch, patch)
    cells = cut.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)
    return _restored(cells, normalisation).flatten(2)


def packed_pixels(
    packed: Float[Tensor, "patches pixels"],
    merge: int,
    frame_group: int,
    frame: int,
    normalisation: Mapping[str, Any],
) -> Float[Tensor, "tokens values"]:
    """Return one frame of the packed patches of Qwen's towers, ``merge**2`` patches a token.

    Parameters
    ----------
    packed : patches in the order in which they merge, each (3, frames, patch, patch) flattened
    frame : which of the ``frame_group`` frames that a patch spans
    """
    squares = packed.detach().float().unflatten(0, (-1, merge**2))
    one = squares.unflatten(-1, (3, frame_group, -1))[:, :, :, frame]
    return _restored(one, normalisation).flatten(1)


def _restored(
    pixels: Float[Tensor, "... 3 area"], normalisation: Mapping[str, Any]
) -> Float[Tensor, "... 3 area"]:
    mean, deviation = (
        torch.tensor(normalisation[name], device=pixels.device)[:, None]
        for name in ("image_mean", "image_std")
    )
    return pixels * deviation + mean
