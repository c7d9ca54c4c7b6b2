"""From pixels and prompts to what a model reads, in torch alone: no processor, no torchvision.

An adapter's ``prepare`` turns frames into pixel values and says which text stands for them; here is
what families share. Settings come from the ``preprocessor_config.json`` of a checkpoint.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import InputError

MARKS = {"image": "<image>", "video": "<video>"}
"""What stands in a prompt for a picture, until the model's own placeholders take its place."""


@dataclass(frozen=True)
class Prepared:
    """Images and videos as one call carries them.

    Attributes
    ----------
    inputs : the model's arguments by name, those in ``visual_inputs`` of its adapter
    pieces : kind -> for every image or video, in reading order, what stands for it in the prompt:
        token ids (placeholders and marks of the model) and texts (such as time stamps)
    token_types : placeholder -> what it is called in ``mm_token_type_ids``, for models that ask
    """

    inputs: dict[str, Tensor]
    pieces: Mapping[str, Sequence[Sequence[int | str]]]
    token_types: Mapping[int, int] = field(default_factory=dict)


def resize_and_normalise(
    frames: UInt8[Tensor, "frames 3 height width"],
    size: tuple[int, int],
    settings: Mapping[str, Any],
) -> Float[Tensor, "frames 3 rows columns"]:
    """Return frames as a tower reads them: bicubic with antialias, then ``(x - mean) / std``.

    On uint8 tensors torch's resize equals torchvision's to the bit; rescaling is fused into the
    normalisation, as transformers does it.

    Parameters
    ----------
    size : rows and columns, in pixels
    settings : ``image_mean`` and ``image_std``, of [0, 1] pixels; ``do_center_crop`` cuts off what
        does not fit instead of squeezing it
    """
    height, width = frames.shape[-2:]
    rows, columns = size
    fitted = size
    if settings.get("do_center_crop"):
        scale = max(rows / height, columns / width)
        fitted = (max(rows, int(height * scale)), max(columns, int(width * scale)))
    if (height, width) != fitted:
        frames = torch.nn.functional.interpolate(frames, fitted, mode="bicubic", antialias=True)
    top, left = (fitted[0] - rows) // 2, (fitted[1] - columns) // 2
    frames = frames[..., top : top + rows, left : left + columns]
    mean, std = (
        torch.tensor(settings[name], device=frames.device).view(3, 1, 1) * 255
        for name in ("image_mean", "image_std")
    )
    return (frames.float() - mean) / std


def tokenise(tokenizer: Any, prompts: Sequence[str], prepared: Prepared) -> dict[str, Tensor]:
    """Put the placeholders into prompts; return all inputs of one call, padded by the tokenizer.

    Parameters
    ----------
    prompts : text with one mark (``<image>``, ``<video>``) for every picture, in reading order

    Raises
    ------
    InputError
        If marks and pictures do not match in number.
    """
    texts = list(prompts)
    for kind, mark in MARKS.items():
        given = prepared.pieces.get(kind, ())
        parts = [text.split(mark) for text in texts]
        n_marks = sum(len(part) - 1 for part in parts)
        if n_marks != len(given):
            raise InputError(f"the prompts hold {n_marks} {mark} marks for {len(given)} of them")
        waiting = iter(f"\0{kind}{n}\0" for n in range(len(given)))
        texts = ["".join(_interleave(part, waiting)) for part in parts]
    for kind, given in prepared.pieces.items():
        for n, pieces in enumerate(given):
            text = "".join(
                piece if isinstance(piece, str) else tokenizer.convert_ids_to_tokens(piece)
                for piece in pieces
            )
            texts = [each.replace(f"\0{kind}{n}\0", text) for each in texts]
    found = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    if prepared.token_types:
        types = torch.zeros_like(found["input_ids"])
        for token_id, number in prepared.token_types.items():
            types[found["input_ids"] == token_id] = number
        found["mm_token_type_ids"] = types
    return {**found, **prepared.inputs}


def _interleave(parts: Sequence[str], between: Any) -> list[str]:
    return [parts[0], *(piece for part in parts[1:] for piece in (next(between), part))]
