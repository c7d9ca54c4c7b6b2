"""Pixels of the generated videos: photograph crops, handwritten digits and their splits.

The splits share neither digit instances nor photograph regions: every fifth digit
instance and the right part of each photograph belong to ``"test"``.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FRAME_SIZE = 104  # pixels, height and width
PATCH_SIZE = 8  # pixels
GRID_SIZE = FRAME_SIZE // PATCH_SIZE  # encoder tokens along one side
GLYPH_SIZE = 16  # pixels, height and width of a digit and of its plate
SPLITS = ("train", "test")
PHOTOS = ("china.jpg", "flower.jpg")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (235, 45, 45),
    "green": (50, 215, 70),
    "blue": (70, 105, 255),
    "yellow": (240, 220, 45),
    "purple": (195, 65, 235),
    "cyan": (45, 225, 225),
}

_TEST_EVERY = 5  # digit instance i is a test instance if i % 5 == 0
_PHOTO_SIZE = (480, 320)  # width, height in pixels after resizing
_TRAIN_COLUMNS = (0, 288)  # photograph columns seen in training
_TEST_COLUMNS = (300, 480)  # photograph columns seen in testing
_TRAIN_VARIANTS = 6  # slightly warped versions of every training digit


def digit_instances(split: str) -> np.ndarray:
    """Indices into ``load_digits`` that belong to ``split``, shape (n,)."""
    _check_split(split)
    index = np.arange(len(_digits()[1]))
    is_test = index % _TEST_EVERY == 0
    return index[is_test if split == "test" else ~is_test]


def digit_classes() -> np.ndarray:
    """Class of every instance of ``load_digits``, int64 of shape (n,)."""
    return _digits()[1]


def photo_columns(split: str) -> tuple[int, int]:
    """First and one-past-last photograph column that ``split`` may show."""
    return _TEST_COLUMNS if split == "test" else _TRAIN_COLUMNS


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")


def draw_background(
    rng: np.random.Generator, split: str, photo: int, num_frames: int
) -> np.ndarray:
    """A darkened panning crop of a photograph.

    Returns
    -------
    ndarray of float32, shape (num_frames, FRAME_SIZE, FRAME_SIZE, 3), in 0..255
    """
    image = _photos()[photo]
    low, high = photo_columns(split)
    limits = np.array([image.shape[0] - FRAME_SIZE, high - low - FRAME_SIZE])
    start = rng.uniform(0, limits)
    speed = rng.uniform(-3, 3, 2)  # pixels a frame
    gain = rng.uniform(0.45, 0.75)
    flip = split == "train" and rng.random() < 0.5
    frames = np.empty((num_frames, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.float32)
    for number in range(num_frames):
        top, left = np.clip(np.rint(start + speed * number), 0, limits).astype(int)
        left += low
        crop = image[top : top + FRAME_SIZE, left : left + FRAME_SIZE] * gain
        frames[number] = crop[:, ::-1] if flip else crop
    return frames


def draw_variant(rng: np.random.Generator, split: str) -> int:
    """Variant number of a digit: warped in training, as written in testing."""
    return int(rng.integers(_TRAIN_VARIANTS)) if split == "train" else 0


def draw_digit(
    frame: np.ndarray, instance: int, color: str, corner: tuple[int, int], variant: int = 0
) -> None:
    """Draw a coloured digit on a darkened plate into ``frame`` (float, (H, W, 3)) in place."""
    top, left = corner
    opacity = _glyph(instance, variant)
    plate = frame[top : top + GLYPH_SIZE, left : left + GLYPH_SIZE]
    plate *= 0.2 * (1.0 - opacity)
    plate += opacity * np.array(COLORS[color], dtype=np.float32)


def _shipped(place: str) -> Path:
    """Find a file that ships with scikit-learn, whose import would take a second."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(spec.submodule_search_locations[0]) / "datasets" / place


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Digit images in 0..1, shape (n, 8, 8), and their classes, shape (n,)."""
    with gzip.open(_shipped("data/digits.csv.gz"), "rt") as file:
        data = np.loadtxt(file, delimiter=",")
    images = data[:, :-1].reshape(-1, 8, 8)
    return (images / 16.0).astype(np.float32), data[:, -1].astype(np.int64)


@lru_cache(maxsize=1)
def _photos() -> tuple[np.ndarray, ...]:
    """The photographs, float32 in 0..255, each of shape (height, width, 3)."""
    from PIL import Image

    images = (Image.open(_shipped(f"images/{name}")) for name in PHOTOS)
    return tuple(
        np.asarray(image.resize(_PHOTO_SIZE, Image.Resampling.LANCZOS), dtype=np.float32)
        for image in images
    )


@lru_cache(maxsize=16384)
def _glyph(instance: int, variant: int) -> np.ndarray:
    """Opacity of a digit in 0..1, shape (GLYPH_SIZE, GLYPH_SIZE, 1); variant 0 is not warped."""
    from PIL import Image

    image = Image.fromarray((_digits()[0][instance] * 255).astype(np.uint8))
    image = image.resize((GLYPH_SIZE, GLYPH_SIZE), Image.Resampling.BICUBIC)
    if variant:
        image = _warp(image, np.random.default_rng([7, instance, variant]))
    glyph = np.asarray(image, dtype=np.float32)[..., None] / 255.0
    return np.clip(glyph * 1.3, 0.0, 1.0)


def _warp(image, rng: np.random.Generator):
    """Rotate, scale and shift a PIL image a little about its centre."""
    from PIL import Image

    angle, scale = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(0.88, 1.1)
    shift_x, shift_y = rng.uniform(-1, 1, 2)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    middle = (GLYPH_SIZE - 1) / 2
    coefficients = (
        cosine, sine, middle - cosine * (middle + shift_x) - sine * (middle + shift_y),
        -sine, cosine, middle + sine * (middle + shift_x) - cosine * (middle + shift_y),
    )  # fmt: skip
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR
    )
