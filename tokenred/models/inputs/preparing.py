"""Prepare model inputs from pixels and prompts in plain torch, without processor or torchvision.

Shared by the ``prepare`` of all adapters. Settings come from the ``preprocessor_config.json`` of a
checkpoint.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import InputError

_STAND_IN = re.compile("\0[a-z]+[0-9]+\0")
_NO_TYPES = {"return_token_type_ids": False}
MARKS = {"image": "<image>", "video": "<video>"}
"""Marks in a prompt for an image or video, later replaced by the model's placeholders."""


@dataclass(frozen=True)
class Prepared:
    """Prepared images and videos of one call.

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
    prompts : text with a mark (``<image>``, ``<video>``) for every clip, in reading order

    Raises
    ------
    InputError
        If marks and media do not match in number.
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
    runs = {
        f"\0{kind}{n}\0": [(piece, len(list(same))) for piece, same in groupby(pieces)]
        for kind, given in prepared.pieces.items()
        for n, pieces in enumerate(given)
    }
    found = _encoded(tokenizer, texts, runs)
    if prepared.token_types:
        types = torch.zeros_like(found["input_ids"])
        for token_id, number in prepared.token_types.items():
            types[found["input_ids"] == token_id] = number
        found["mm_token_type_ids"] = types
    return {**found, **prepared.inputs}


_Runs = Mapping[str, Sequence[tuple[int | str, int]]]
"""Mark of a clip in a text -> its pieces, and how often each is there in a row."""


def _encoded(tokenizer: Any, texts: Sequence[str], runs: _Runs) -> dict[str, Tensor]:
    """Return token ids and mask of texts with all placeholders, padded by the tokenizer.

    A run of equal placeholders may be thousands long and is the same in every question: the
    tokenizer reads one of them, and the others are put beside it.
    """
    short = tokenizer(_spelled(tokenizer, texts, runs, 1), **_NO_TYPES)
    rows = []
    for text, ids in zip(texts, short["input_ids"]):
        counts: dict[int, list[int]] = {}
        for mark in _STAND_IN.findall(text):
            for piece, n in runs[mark]:
                if isinstance(piece, int):
                    counts.setdefault(piece, []).append(n)
        if tokenizer.pad_token_id is None or any(ids.count(k) != len(counts[k]) for k in counts):
            # the text around holds placeholders of its own
            spelled = _spelled(tokenizer, texts, runs)
            return {**tokenizer(spelled, return_tensors="pt", padding=True, **_NO_TYPES)}
        waiting = {token_id: iter(found) for token_id, found in counts.items()}
        repeats = [next(waiting[each]) if each in waiting else 1 for each in ids]
        rows.append(torch.tensor(ids).repeat_interleave(torch.tensor(repeats)))
    side = tokenizer.padding_side
    padded = {"input_ids": pad_sequence(rows, True, tokenizer.pad_token_id, side)}
    if "attention_mask" in short:
        ones = [torch.ones_like(row) for row in rows]
        padded["attention_mask"] = pad_sequence(ones, True, 0, side)
    return padded


def _spelled(
    tokenizer: Any, texts: Sequence[str], runs: _Runs, at_most: int | None = None
) -> list[str]:
    """Insert the placeholders of every clip into texts, at most ``at_most`` equal ones in a row."""
    spelled = list(texts)
    for mark, pieces in runs.items():
        text = "".join(
            piece * n if isinstance(piece, str)
            else tokenizer.convert_ids_to_tokens(piece) * min(n, at_most or n)
            for piece, n in pieces
        )  # fmt: skip
        spelled = [each.replace(mark, text) for each in spelled]
    return spelled


def _interleave(parts: Sequence[str], between: Any) -> list[str]:
    return [parts[0], *(piece for part in parts[1:] for piece in (next(between), part))]
