"""The spacings of PruMerge+ as released, which step through the whole frame."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenred import InputError


def without_repeats(
    chosen: Bool[Tensor, "frames tokens"], samples: float
) -> Bool[Tensor, "frames tokens"]:
    """Mark the samples of the adaptive mode: from token 0 on, each frame with its own spacing.

    The spacing is the step that would spread the chosen tokens evenly, divided by ``samples``, both
    rounded down. The last token is never reached. A frame without chosen tokens has no samples.

    Raises
    ------
    InputError
        If so many tokens are chosen that the spacing is zero.
    """
    n_tokens = chosen.shape[1]
    marks = torch.zeros_like(chosen)
    for mark, n_chosen in zip(marks, chosen.sum(-1).tolist()):
        if n_chosen:
            mark[0 : n_tokens - 1 : _spacing(n_chosen, n_tokens, samples)] = True
    return marks


def with_repeats(
    n_chosen: int, n_tokens: int, samples: float, device: torch.device
) -> Int[Tensor, "samples"]:
    """Return the samples of the fixed mode: from half a step on, chosen before or not.

    Raises
    ------
    InputError
        If the spacing is zero, or the samples are not as many as the chosen tokens.
    """
    spacing = _spacing(n_chosen, n_tokens, samples)
    half = int(1 / (n_chosen / n_tokens)) // 2
    found = torch.arange(half, n_tokens - 1, spacing, device=device)
    if len(found) != n_chosen:
        raise InputError(f"{len(found)} samples do not match {n_chosen} chosen tokens")
    return found


def _spacing(n_chosen: int, n_tokens: int, samples: float) -> int:
    step = int(1 / (n_chosen / n_tokens))
    spacing = int(step / samples)
    if spacing == 0:
        raise InputError(f"{n_chosen} chosen of {n_tokens} tokens leave no room for samples")
    return spacing
