"""Read image files."""

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tokenred.errors import InputError, shown
from tokenred.texts import check_file
from tokenred.video.limits import DEFAULT_LIMITS, VideoLimits

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".avif")
_FORMATS = (
    *("BMP", "DIB", "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "GIF", "PPM", "JPEG2000", "TGA"),
    *("ICO", "PCX", "QOI"),
)
"""What Pillow may take a file for: none that runs another program or opens another file."""
_HEADS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_SIXTEEN = ("PNG", "PPM", "JPEG2000")
"""Formats whose numbers of 32 bits are of 16 really."""


def is_image(path: str | PathLike[str]) -> bool:
    """Say whether a file is an image rather than a video: by its first bytes, then by its name."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    if head.startswith(_HEADS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head[4:8] == b"ftyp":
        return head[8:12] == b"avif"
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def read_image(
    path: str | PathLike[str], *, limits: VideoLimits = DEFAULT_LIMITS
) -> tuple[UInt8[Tensor, "height width 3"], tuple[str, ...]]:
    """Read an image as it is meant to be seen: upright, RGB, on white where it is transparent.

    Parameters
    ----------
    limits : ``max_frame_pixels`` of them

    Returns
    -------
    tuple
        (height, width, 3) uint8, and remarks, one sentence each.

    Raises
    ------
    InputError
        If the file is missing, corrupt, no image, larger than the limit, or holds numbers that do
        not say what is white.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise InputError("reading images needs Pillow: pip install pillow") from error
    path = Path(path)
    check_file(path, "an image file")
    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    # Pillow passes on whatever its readers stumble over in damaged data.
    faults = (OSError, SyntaxError, ValueError, LookupError, ArithmeticError, MemoryError)
    remarks = []
    Image.init()
    known = [each for each in _FORMATS if each in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata that is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open(path, "rb") as file, Image.open(file, formats=known) as image:
                what = f"pixels in {shown(path)} ({image.width}x{image.height})"
                limits.check("max_frame_pixels", image.width * image.height, what)
                if getattr(image, "n_frames", 1) > 1:
                    remarks.append(f"{shown(path.name)} holds several images; the first is read")
                image.seek(0)
                pixels = to_rgb(_upright(image, ImageOps))
    except InputError:
        raise
    except too_large:
        limit = limits.max_frame_pixels
        raise InputError(
            f"{shown(path)} is too large; the limit is {limit} pixels (max_frame_pixels)"
        ) from None
    except (*faults, EOFError, TypeError, AttributeError, _struct_error()) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{shown(path)} cannot be read as an image: {reason[:200]}") from error
    return pixels, tuple(remarks)


def to_rgb(image: Any) -> UInt8[Tensor, "height width 3"]:
    """Return an image of Pillow as (height, width, 3) uint8: any mode, on white if transparent.

    Raises
    ------
    InputError
        If it is damaged, or holds numbers that do not say what is white: of 32 bits, or fractions
        beyond [0, 1].
    """
    try:
        return _seen(image)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, LookupError) as error:
        raise InputError(f"an image cannot be turned into RGB: {error}") from error


def _seen(image: Any) -> UInt8[Tensor, "height width 3"]:
    from PIL import Image

    mode = image.mode
    if mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 65535)
    if mode == "I":
        values = np.asarray(image)
        if image.format not in _SIXTEEN or values.min() < 0 or values.max() > 65535:
            raise InputError("an image of 32-bit numbers does not say which of them is white")
        return _grey(values / 65535)
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise InputError("an image of fractions must hold numbers from 0 to 1")
        return _grey(values)
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, seen)
    return torch.from_numpy(np.array(image.convert("RGB")))


def _grey(shares: np.ndarray) -> UInt8[Tensor, "height width 3"]:
    grey = (shares * 255).round().astype(np.uint8)
    return torch.from_numpy(np.repeat(grey[..., None], 3, axis=-1))


def _upright(image: Any, operations: Any) -> Any:
    """Turn an image as its camera says; one whose remarks on itself are damaged stays as it is."""
    image.load()
    try:
        turned = operations.exif_transpose(image)
    except Exception:  # whatever a damaged table of metadata leads to, the pixels are fine
        return image
    turned.format = image.format
    return turned


def _struct_error() -> type[Exception]:
    from struct import error

    return error
