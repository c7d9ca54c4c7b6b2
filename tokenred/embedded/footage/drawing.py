"""Pixels of the videos: objects, backdrops, light and weather."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tokenred.embedded.footage.sources import SOURCES, photo, shots

FRAME_SIZE = 168  # pixels, height and width
NUM_FRAMES = 8
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (235, 40, 40),
    "green": (40, 190, 40),
    "blue": (50, 80, 245),
    "yellow": (245, 220, 40),
    "purple": (190, 50, 220),
    "cyan": (40, 220, 230),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
TEXTURES = ("plain", "striped", "checked")
BACKDROPS = ("photo", "bricks", "waves", "dots")
LIGHTS = ("steady", "brighter", "darker")
WEATHERS = ("clear", "rain", "snow", "fog")
_SCALE = 4  # objects are drawn larger and scaled down
_CELL = 7  # pixels of a stripe or of a check


@lru_cache(maxsize=4096)
def draw_object(shape: str, color: str, texture: str, size: int) -> np.ndarray:
    """An object on a transparent square, float32 of shape (size, size, 4) in 0..255."""
    from PIL import Image

    side = size * _SCALE
    outline = Image.new("L", (side, side), 0)
    _draw_outline(outline, shape)
    opacity = np.asarray(outline.resize((size, size), Image.Resampling.LANCZOS), np.float32)
    pixels = np.empty((size, size, 4), np.float32)
    pixels[..., :3] = COLORS[color]
    pixels[..., 3] = opacity
    if texture != "plain":
        rows, columns = np.indices((size, size)) // _CELL
        dark = rows % 2 if texture == "striped" else (rows + columns) % 2
        pixels[..., :3] *= np.where(dark, 0.12, 1.0)[..., None]
    return pixels


def _draw_outline(image, shape: str) -> None:
    """Fill a shape with 255 into a square grey PIL image."""
    from PIL import ImageDraw

    n = image.size[0]
    pen = ImageDraw.Draw(image)

    def polygon(*points: tuple[float, float]) -> None:
        pen.polygon([(x * n, y * n) for x, y in points], fill=255)

    def ellipse(left: float, top: float, right: float, bottom: float, fill: int = 255) -> None:
        pen.ellipse((left * n, top * n, right * n, bottom * n), fill=fill)

    if shape == "circle":
        ellipse(0.01, 0.01, 0.99, 0.99)
    elif shape == "square":
        polygon((0.07, 0.07), (0.93, 0.07), (0.93, 0.93), (0.07, 0.93))
    elif shape == "triangle":
        polygon((0.5, 0), (1, 1), (0, 1))
    elif shape == "diamond":
        polygon((0.5, 0), (0.87, 0.5), (0.5, 1), (0.13, 0.5))
    elif shape == "ring":
        ellipse(0.01, 0.01, 0.99, 0.99)
        ellipse(0.3, 0.3, 0.7, 0.7, fill=0)
    elif shape == "cross":
        polygon((0.33, 0), (0.67, 0), (0.67, 1), (0.33, 1))
        polygon((0, 0.33), (1, 0.33), (1, 0.67), (0, 0.67))
    elif shape == "star":
        angles = -np.pi / 2 + np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2, 0.21, 0.5)
        polygon(*zip(0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles), strict=True))
    else:  # heart
        ellipse(0, 0.05, 0.55, 0.6)
        ellipse(0.45, 0.05, 1, 0.6)
        polygon((0.04, 0.42), (0.96, 0.42), (0.5, 1))


def paste(frame: np.ndarray, drawn: np.ndarray, left: int, top: int) -> None:
    """Draw an object over a frame (float32, (H, W, 3)) in place."""
    size = len(drawn)
    part = frame[top : top + size, left : left + size]
    opacity = drawn[..., 3:] / 255.0
    part *= 1.0 - opacity
    part += opacity * drawn[..., :3]


def draw_backdrop(
    rng: np.random.Generator, split: str, kind: str, moves: bool
) -> tuple[np.ndarray, bool]:
    """All frames of a backdrop, and whether it is a clip, which moves by itself.

    Returns
    -------
    ndarray of float32, shape (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), in 0..255; bool
    """
    if kind != "photo":
        return _pan(rng, _wallpaper(rng, kind), moves), False
    source = SOURCES[split][rng.integers(len(SOURCES[split]))]
    flip = rng.random() < 0.5
    if source.clip:
        frames = _clip(rng, shots(source))
    else:
        frames = _pan(rng, photo(source), moves)
    return (frames[:, :, ::-1] if flip else frames), source.clip


def _clip(rng: np.random.Generator, found: tuple[np.ndarray, ...]) -> np.ndarray:
    shot = found[rng.integers(len(found))]
    stride = int(rng.integers(1, 1 + max(1, min(4, (len(shot) - 1) // NUM_FRAMES))))
    start = int(rng.integers(len(shot) - stride * (NUM_FRAMES - 1)))
    side = int(rng.integers(FRAME_SIZE - 20, min(shot.shape[1:3]) + 1))
    top, left = (int(rng.integers(length - side + 1)) for length in shot.shape[1:3])
    chosen = shot[start : start + stride * NUM_FRAMES : stride]
    return np.stack([_window(frame, left, top, side) for frame in chosen[:NUM_FRAMES]])


def _pan(rng: np.random.Generator, image: np.ndarray, moves: bool) -> np.ndarray:
    """Look at an image through a square window that stays, shifts, or grows or shrinks."""
    height, width = image.shape[:2]
    side = np.full(NUM_FRAMES, rng.uniform(125, 185))
    shift = np.zeros(2)
    if moves and rng.random() < 0.35:
        side = np.geomspace(1, rng.uniform(1.6, 2.2), NUM_FRAMES) * rng.uniform(100, 130)
        side = side[::-1] if rng.random() < 0.5 else side
    elif moves:
        angle = rng.uniform(0, 2 * np.pi)
        shift = np.array([np.sin(angle), np.cos(angle)]) * rng.uniform(8, 14)
    shift = shift * side[0] / FRAME_SIZE * (NUM_FRAMES - 1)  # of the whole video, in the image
    limits = np.array([height, width]) - side.max()
    shift = np.clip(shift, -limits, limits)
    low, high = np.maximum(0, -shift), np.minimum(limits, limits - shift)
    start = rng.uniform(low, np.maximum(low, high))
    frames = []
    for number in range(NUM_FRAMES):
        centre = start + side.max() / 2 + shift * number / (NUM_FRAMES - 1)
        top, left = centre - side[number] / 2
        frames.append(_window(image, left, top, side[number]))
    return np.stack(frames)


def _window(image: np.ndarray, left: float, top: float, side: float) -> np.ndarray:
    """Return a square part of an image at the size of a frame, float32."""
    from PIL import Image

    box = (left, top, min(left + side, image.shape[1]), min(top + side, image.shape[0]))
    size = (FRAME_SIZE, FRAME_SIZE)
    scaled = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.asarray(scaled, np.float32)


def _wallpaper(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A regular pattern in two muted colours, uint8 of shape (320, 400, 3)."""
    rows, columns = np.indices((320, 400)).astype(np.float32)
    period = rng.uniform(26, 46)
    if kind == "bricks":
        course = np.floor(rows / (period / 2))
        along = (columns + (course % 2) * period / 2) % period
        mask = (rows % (period / 2) < 3.5) | (along < 3.5)
    elif kind == "waves":
        bend = period / 4 * np.sin(2 * np.pi * columns / (2 * period) + rng.uniform(0, 6))
        mask = (rows + bend) % (period / 1.5) < period / 3
    else:  # dots
        radius = period / 3.4
        row = np.floor(rows / period)
        along = (columns + (row % 2) * period / 2) % period - period / 2
        mask = along**2 + (rows % period - period / 2) ** 2 < radius**2
    grey = rng.uniform(60, 200, 2)
    while abs(grey[0] - grey[1]) < 50:
        grey = rng.uniform(60, 200, 2)
    tones = np.clip(grey[:, None] + rng.uniform(-22, 22, (2, 3)), 0, 255)
    pattern = np.where(mask[..., None], tones[0], tones[1]) + rng.normal(0, 5, (320, 400, 1))
    return np.clip(pattern, 0, 255).astype(np.uint8)


def draw_clutter(rng: np.random.Generator, frames: np.ndarray) -> None:
    """Draw up to three grey scraps that stay where they are, in place."""
    from PIL import Image, ImageDraw

    for _ in range(rng.integers(4)):
        mask = Image.new("L", (FRAME_SIZE, FRAME_SIZE), 0)
        centre, radius = rng.uniform(10, FRAME_SIZE - 10, 2), rng.uniform(8, 20)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        ImageDraw.Draw(mask).polygon([tuple(corner) for corner in corners], fill=255)
        inside = np.asarray(mask) > 0
        frames[:, inside] = rng.uniform(30, 225) + rng.uniform(-8, 8, 3)


def apply_light(rng: np.random.Generator, frames: np.ndarray, light: str) -> None:
    """Change the brightness of a backdrop over time, in place."""
    if light == "steady":
        gain = np.full(NUM_FRAMES, rng.uniform(0.5, 1.0))
    else:
        gain = np.linspace(rng.uniform(0.25, 0.4), rng.uniform(0.9, 1.0), NUM_FRAMES)
        gain = gain[::-1] if light == "darker" else gain
    frames *= gain[:, None, None, None]


def apply_fog(rng: np.random.Generator, frames: np.ndarray) -> None:
    """Veil a backdrop, in place."""
    thickness = rng.uniform(0.5, 0.65)
    frames *= 1 - thickness
    frames += thickness * rng.uniform(170, 205)


def draw_weather(rng: np.random.Generator, frames: np.ndarray, weather: str) -> np.ndarray:
    """Return the frames with rain or snow in front of everything."""
    from PIL import Image, ImageDraw

    if weather not in ("rain", "snow"):
        return frames
    slant = rng.uniform(-5, 5)
    drawn = []
    for frame in frames:
        image = Image.fromarray(np.clip(frame, 0, 255).astype(np.uint8))
        pen = ImageDraw.Draw(image, "RGBA")
        for x, y in rng.uniform(-10, FRAME_SIZE, (70, 2)):
            if weather == "rain":
                pen.line((x, y, x + slant, y + 17), fill=(205, 215, 230, 190), width=1)
            else:
                r = 1.7
                pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 250, 250, 225))
        drawn.append(np.asarray(image, np.float32))
    return np.stack(drawn)
