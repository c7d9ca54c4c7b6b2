"""What verbs that load a model share: its options, and how they read videos and images."""

from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.errors import ConfigError, InputError

if TYPE_CHECKING:
    from torch import Tensor

    from tokenred.models.loading import LoadedModel

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
NUM_FRAMES = 32
"""Frames of a video, unless someone says otherwise; the embedded model has its own number."""

Model = Annotated[
    str | None,
    typer.Option(
        metavar="ID_OR_PATH",
        help="A local folder, or the id of a model on the hub; the embedded one by default.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit on the hub; the newest by default.")
]
Device = Annotated[
    str, typer.Option(help="Such as cpu or cuda:1; auto takes a GPU if there is one.")
]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16 or float16; auto takes what the checkpoint has.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Take what is on this machine; never ask the hub.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Let code of the checkpoint run, where transformers has none for it.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Load even what seems not to fit into the memory.")
]


@dataclass(frozen=True)
class Picture:
    """What a verb works on, as the model's ``inputs`` takes it."""

    kind: str
    pixels: "Tensor"
    frame_indices: tuple[int, ...] = ()
    frame_times: "Tensor | None" = None
    remarks: tuple[str, ...] = ()


def quiet_transformers() -> None:
    """Keep transformers' progress bars, and remarks on settings that are not used, off stderr."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def read_picture(path: Path, n_frames: int) -> Picture:
    """Read an image, or frames of a video."""
    from tokenred import read_video

    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Picture("image", _read_image(path))
    clip = read_video(path, n_frames)
    return Picture("video", clip.frames, clip.frame_indices, clip.frame_times, clip.remarks)


def _read_image(path: Path) -> "Tensor":
    """Read an image as it is meant to be seen: (height, width, 3), RGB."""
    import numpy as np
    import torch

    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError("reading images needs Pillow: pip install pillow") from error
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from error
    return torch.from_numpy(np.array(upright))


def timed_adapter(loaded: "LoadedModel", picture: Picture) -> Any:
    """Return an adapter that knows the seconds of the frames, for strategies that read them."""
    adapter = copy(loaded.adapter)
    if picture.frame_times is not None:
        times = [picture.frame_times.to(loaded.plan.device)]
        adapter.encode = partial(adapter.encode, frame_times=times)
    return adapter


def embedded_words(question: str) -> str:
    """Return a question in words of the embedded model, without its mark."""
    from tokenred.embedded import VOCABULARY

    words = question.lower().replace("?", " ").split()
    unknown = sorted({word for word in words if word not in VOCABULARY})
    if unknown or not words:
        raise ConfigError(
            f"the model does not know {', '.join(map(repr, unknown)) or 'an empty question'}; "
            f"it can be asked, for example: {'; '.join(_examples())}",
            ["ask"],
        )
    return " ".join(words)


def _examples() -> list[str]:
    from tokenred.embedded import KINDS, generate_sample

    found: dict[str, str] = {}
    for index in range(20):
        for question in generate_sample(index).questions:
            found.setdefault(question.kind, question.prompt)
        if len(found) == len(KINDS):
            break
    return list(found.values())
