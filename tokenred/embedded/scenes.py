"""Seeded generator of short videos with real pixels and a complete ground truth.

A video is a panning crop of a photograph that ships with scikit-learn, over which
handwritten digits (also from scikit-learn) appear, move and disappear. A scene cut may
switch the photograph. Everything is a function of ``(seed, index, split)``.

The splits share neither digit instances nor photograph regions: every fifth digit
instance and the right part of each photograph belong to ``"test"``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenred.embedded.drawing import (
    COLORS,
    FRAME_SIZE,
    GLYPH_SIZE,
    GRID_SIZE,
    PATCH_SIZE,
    PHOTOS,
    SPLITS,
    digit_classes,
    digit_instances,
    draw_background,
    draw_digit,
    draw_variant,
)

NUM_FRAMES = 8
STEP = 16  # pixels an object moves from one frame to the next
MAX_OBJECTS = 4
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (0, -1),
    "right": (0, 1),
    "up": (-1, 0),
    "down": (1, 0),
}

_CUT_SHARE = 0.75
_ONE_SIDED_SHARE = 0.75


@dataclass(frozen=True)
class SceneObject:
    """One digit of a video.

    Attributes
    ----------
    digit : int
        The digit class, 0 to 9.
    color : str
        A key of :data:`COLORS`.
    direction : str
        A key of :data:`DIRECTIONS`.
    instance : int
        Index of the handwritten image in ``sklearn.datasets.load_digits``.
    first : int
        Index of the first frame the object is visible in.
    corners : tuple of (int, int)
        Top and left pixel of the plate, one pair per visible frame.
    """

    digit: int
    color: str
    direction: str
    instance: int
    first: int
    corners: tuple[tuple[int, int], ...]

    @property
    def last(self) -> int:
        """Index of the last frame the object is visible in."""
        return self.first + len(self.corners) - 1

    def corner(self, frame: int) -> tuple[int, int] | None:
        """Top and left pixel in ``frame``, None where the object is not visible."""
        if self.first <= frame <= self.last:
            return self.corners[frame - self.first]
        return None


@dataclass(frozen=True)
class Scene:
    """A video and its ground truth.

    Attributes
    ----------
    frames : ndarray of uint8, shape (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)
        RGB pixels.
    objects : tuple of SceneObject
        Sorted by first frame.
    cut : int or None
        Index of the first frame after the scene cut.
    photos : tuple of int
        Index of the photograph shown, one per frame.
    """

    frames: np.ndarray
    objects: tuple[SceneObject, ...]
    cut: int | None
    photos: tuple[int, ...]

    def object_map(self) -> np.ndarray:
        """Object index on every encoder patch, -1 on the background.

        Returns
        -------
        ndarray of int64, shape (NUM_FRAMES, GRID_SIZE, GRID_SIZE)
        """
        result = np.full((NUM_FRAMES, GRID_SIZE, GRID_SIZE), -1, dtype=np.int64)
        side = GLYPH_SIZE // PATCH_SIZE
        for number, item in enumerate(self.objects):
            for offset, (top, left) in enumerate(item.corners):
                row, column = top // PATCH_SIZE, left // PATCH_SIZE
                result[item.first + offset, row : row + side, column : column + side] = number
        return result


def scene_rng(index: int, split: str, seed: int = 0) -> np.random.Generator:
    """Random generator that belongs to one video."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return np.random.default_rng([seed, SPLITS.index(split), index])


def _spans(rng: np.random.Generator, count: int, cut: int | None) -> list[tuple[int, int]]:
    """First frame and number of visible frames of every object, mostly on one side of a cut."""
    spans = []
    for _ in range(count):
        low, high = 0, NUM_FRAMES
        if cut is not None and rng.random() < _ONE_SIDED_SHARE:
            low, high = ((0, cut), (cut, NUM_FRAMES))[int(rng.integers(2))]
        length = min(int(rng.choice([2, 3, 4], p=[0.2, 0.4, 0.4])), high - low)
        spans.append((int(rng.integers(low, high - length + 1)), length))
    return spans


def _path(rng: np.random.Generator, direction: str, length: int) -> tuple[tuple[int, int], ...]:
    """Corner per visible frame of a straight path that stays inside the frame."""
    last_corner = (FRAME_SIZE - GLYPH_SIZE) // PATCH_SIZE
    step = np.array(DIRECTIONS[direction]) * (STEP // PATCH_SIZE)
    travel = step * (length - 1)
    low, high = np.maximum(0, -travel), last_corner - np.maximum(0, travel)
    start = rng.integers(low, high + 1)
    corners = (start + np.arange(length)[:, None] * step) * PATCH_SIZE
    return tuple((int(top), int(left)) for top, left in corners)


def _collide(one: SceneObject, other: SceneObject) -> bool:
    """Whether two objects overlap in any frame."""
    for frame in range(max(one.first, other.first), min(one.last, other.last) + 1):
        here, there = one.corner(frame), other.corner(frame)
        if here is None or there is None:
            continue
        if max(abs(here[0] - there[0]), abs(here[1] - there[1])) < GLYPH_SIZE:
            return True
    return False


def _place_objects(
    rng: np.random.Generator, split: str, cut: int | None
) -> tuple[SceneObject, ...]:
    """Draw objects of distinct digits and colours that never overlap, sorted by first frame."""
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    pool, classes = digit_instances(split), digit_classes()
    digits = rng.permutation(10)[:count]
    colors = rng.permutation(list(COLORS))[:count]
    objects: list[SceneObject] = []
    for digit, color, (first, length) in zip(digits, colors, _spans(rng, count, cut), strict=True):
        instance = int(rng.choice(pool[classes[pool] == digit]))
        while True:
            direction = str(rng.choice(list(DIRECTIONS)))
            corners = _path(rng, direction, length)
            item = SceneObject(int(digit), str(color), direction, instance, first, corners)
            if not any(_collide(item, other) for other in objects):
                break
        objects.append(item)
    return tuple(sorted(objects, key=lambda item: item.first))


def generate_scene(index: int, split: str = "train", seed: int = 0) -> Scene:
    """Generate one video.

    Parameters
    ----------
    index : int
        Number of the video, 0 or more.
    split : {"train", "test"}
        Decides which digit instances and photograph regions are used.
    seed : int
        Seed of the whole collection.
    """
    rng = scene_rng(index, split, seed)
    cut = int(rng.integers(2, NUM_FRAMES - 1)) if rng.random() < _CUT_SHARE else None
    objects = _place_objects(rng, split, cut)
    first_photo = int(rng.integers(len(PHOTOS)))
    lengths = [NUM_FRAMES] if cut is None else [cut, NUM_FRAMES - cut]
    photos = [(first_photo + part) % len(PHOTOS) for part in range(len(lengths))]
    frames = np.concatenate(
        [draw_background(rng, split, *part) for part in zip(photos, lengths, strict=True)]
    )
    for item in objects:
        variant = draw_variant(rng, split)
        for offset, corner in enumerate(item.corners):
            draw_digit(frames[item.first + offset], item.instance, item.color, corner, variant)
    shown = tuple(int(photo) for photo in np.repeat(photos, lengths))
    return Scene(np.clip(np.rint(frames), 0, 255).astype(np.uint8), objects, cut, shown)
