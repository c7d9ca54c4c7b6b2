"""Seeded generator of short videos with a complete ground truth.

Up to four coloured shapes stay, move, appear, vanish and hide one another before a photograph, a
clip or a wallpaper that may pan and zoom, with clutter, weather and changing light; a cut may
change the backdrop. Everything is a function of ``(seed, split, index)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenred.embedded.footage.drawing import (
    BACKDROPS,
    COLORS,
    FRAME_SIZE,
    LIGHTS,
    NUM_FRAMES,
    SHAPES,
    TEXTURES,
    WEATHERS,
    apply_fog,
    apply_light,
    draw_backdrop,
    draw_clutter,
    draw_object,
    draw_weather,
    paste,
)
from tokenred.embedded.footage.sources import SPLITS

MAX_OBJECTS = 4
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
SPEEDS: dict[str, tuple[float, float]] = {
    "still": (0.0, 0.0),
    "slow": (4.5, 6.0),
    "fast": (12.5, 15.0),
}
"""Pixels a frame."""
SIZES: dict[str, tuple[int, int]] = {"small": (30, 38), "large": (52, 62)}
"""Pixels, height and width."""
CHANGES = ("stays", "appears", "vanishes")
PHOTO_SHARE = 0.58
_VISIBLE = 0.6  # share of an object that must be seen, mean over its frames
_TRIES = 40


@dataclass(frozen=True)
class FootageObject:
    """One object of a video.

    Attributes
    ----------
    first, last : first frame in which it is seen, and one past the last
    path : centre (x, y) in pixels in each of these frames
    """

    color: str
    shape: str
    texture: str
    size_class: str
    size: int
    speed: str
    direction: str
    change: str
    first: int
    last: int
    path: tuple[tuple[float, float], ...]

    @property
    def displacement(self) -> float:
        """Pixels from the first place to the last."""
        (x0, y0), (x1, y1) = self.path[0], self.path[-1]
        return abs(x1 - x0) + abs(y1 - y0)


@dataclass(frozen=True)
class FootageScene:
    """A video and its ground truth.

    Attributes
    ----------
    frames : uint8, (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)
    objects : from the back to the front
    backdrops : in the first frame and in the last
    cut : first frame behind the cut; None without
    camera_moves : None where a clip moves by itself
    """

    frames: np.ndarray
    objects: tuple[FootageObject, ...]
    backdrops: tuple[str, str]
    cut: int | None
    camera_moves: bool | None
    light: str
    weather: str


def lay_out_scene(index: int, split: str = "test", seed: int = 0) -> FootageScene:
    """Generate one video; the same arguments give the same video."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    cut = int(rng.integers(2, NUM_FRAMES - 1)) if rng.random() < 0.5 else None
    moves = bool(rng.random() < 0.5)
    light, weather = rng.choice(LIGHTS), rng.choice(WEATHERS)
    kinds = [_backdrop(rng) for _ in range(1 if cut is None else 2)]
    drawn = [draw_backdrop(rng, split, kind, moves) for kind in kinds]
    frames = drawn[0][0].copy()
    if cut is not None:
        frames[cut:] = drawn[1][0][cut:]
    draw_clutter(rng, frames)
    apply_light(rng, frames, light)
    if weather == "fog":
        apply_fog(rng, frames)
    objects = _place_objects(rng)
    for item in objects:
        picture = draw_object(item.shape, item.color, item.texture, item.size)
        for number, corner in zip(range(item.first, item.last), _corners(item), strict=True):
            paste(frames[number], picture, *corner)
    frames = draw_weather(rng, frames, weather)
    return FootageScene(
        frames=np.clip(frames, 0, 255).astype(np.uint8),
        objects=objects,
        backdrops=(kinds[0], kinds[-1]),
        cut=cut,
        camera_moves=None if any(is_clip for _, is_clip in drawn) else moves,
        light=str(light),
        weather=str(weather),
    )


def _backdrop(rng: np.random.Generator) -> str:
    if rng.random() < PHOTO_SHARE:
        return BACKDROPS[0]
    return str(rng.choice(BACKDROPS[1:]))


def _corners(item: FootageObject) -> list[tuple[int, int]]:
    """Left and top of an object in each of its frames."""
    return [(round(x - item.size / 2), round(y - item.size / 2)) for x, y in item.path]


def _place_objects(rng: np.random.Generator) -> tuple[FootageObject, ...]:
    """Draw objects until each is seen well enough; their number, drawn once, stays uniform."""
    number = int(rng.integers(1, MAX_OBJECTS + 1))
    colors, shapes = rng.permutation(list(COLORS))[:number], rng.permutation(SHAPES)[:number]
    for _ in range(_TRIES):
        objects = tuple(_draw_one(rng, str(c), str(s)) for c, s in zip(colors, shapes))
        if _least_visible(objects) >= _VISIBLE:
            break
    return objects


def _draw_one(rng: np.random.Generator, color: str, shape: str) -> FootageObject:
    change, speed = str(rng.choice(CHANGES)), str(rng.choice(list(SPEEDS)))
    size_class, direction = str(rng.choice(list(SIZES))), str(rng.choice(list(DIRECTIONS)))
    size = int(rng.integers(*SIZES[size_class]))
    first = int(rng.integers(2, 5)) if change == "appears" else 0
    last = int(rng.integers(4, 7)) if change == "vanishes" else NUM_FRAMES
    velocity = np.array(DIRECTIONS[direction]) * rng.uniform(*SPEEDS[speed])
    way = velocity * (last - first - 1)
    low = size / 2 + np.maximum(0, -way)
    high = FRAME_SIZE - size / 2 - np.maximum(0, way)
    start = rng.uniform(low, np.maximum(low, high))
    places = start + velocity * np.arange(last - first)[:, None]
    path = tuple((float(x), float(y)) for x, y in places)
    return FootageObject(
        color=color,
        shape=shape,
        texture=str(rng.choice(TEXTURES)),
        size_class=size_class,
        size=size,
        speed=speed,
        direction=direction,
        change=change,
        first=first,
        last=last,
        path=path,
    )


def _least_visible(objects: tuple[FootageObject, ...]) -> float:
    """The smallest share of an object that is not hidden by later ones, mean over its frames."""
    shares = []
    for number, item in enumerate(objects):
        seen = []
        for frame, corner in zip(range(item.first, item.last), _corners(item), strict=True):
            free = np.ones((item.size, item.size), bool)
            for other in objects[number + 1 :]:
                if other.first <= frame < other.last:
                    left, top = _corners(other)[frame - other.first]
                    rows = slice(max(0, top - corner[1]), max(0, top + other.size - corner[1]))
                    columns = slice(max(0, left - corner[0]), max(0, left + other.size - corner[0]))
                    free[rows, columns] = False
            seen.append(free.mean())
        shares.append(np.mean(seen))
    return float(min(shares))
