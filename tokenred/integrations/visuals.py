"""Read the visuals of lmms-eval documents: video paths, images, or nested lists of both."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tokenred.errors import InputError
from tokenred.integrations.model_args import ModelArgs
from tokenred.models.inputs.media import MediaInput
from tokenred.video import read_video, sample_indices, to_rgb


def read_visuals(given: Any, args: ModelArgs, n_frames: int) -> MediaInput:
    """Read what ``doc_to_visual`` of a task returns.

    Parameters
    ----------
    given : a path of a video, a PIL image, or sequences of them; None or empty is nothing to see
    n_frames : sampled of a video

    Raises
    ------
    InputError
        If there is something else, or images and videos at once, or a file cannot be read.
    """
    shown = list(flat(given))
    paths = [each for each in shown if isinstance(each, str | Path)]
    if not paths:
        images = tuple(_pixels(image)[None] for image in shown)
        if len(images) > 1 and args.image_list == "video":
            return _as_video(images, n_frames, args.frame_sampling)
        return MediaInput("image", images)
    if len(paths) < len(shown):
        raise InputError("one question cannot be about images and videos at once")
    clips = [read_video(path, n_frames, args.frame_sampling) for path in paths]
    return MediaInput(
        "video",
        tuple(clip.frames for clip in clips),
        tuple(clip.frame_indices for clip in clips),
        tuple(clip.frame_times for clip in clips),
        tuple(remark for clip in clips for remark in clip.remarks),
    )


def flat(given: Any) -> Iterator[Any]:
    """Yield what nested sequences hold; None holds nothing."""
    if given is None:
        return
    if isinstance(given, list | tuple):
        for each in given:
            yield from flat(each)
    else:
        yield given


def _pixels(image: Any) -> UInt8[Tensor, "height width 3"]:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("reading images needs Pillow: pip install pillow") from error
    if not isinstance(image, Image.Image):
        raise InputError(
            f"the task shows a {type(image).__name__}, tokenred reads video files and PIL images"
        )
    return to_rgb(image)


def _as_video(
    images: Sequence[UInt8[Tensor, "1 height width 3"]], n_frames: int, sampling: str
) -> MediaInput:
    if len({image.shape for image in images}) > 1:
        raise InputError("images of different size cannot be the frames of one video")
    indices = sample_indices(len(images), n_frames, sampling)
    return MediaInput("video", (torch.cat([images[index] for index in indices]),), (indices,))
