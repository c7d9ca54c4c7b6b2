"""Pixel preprocessing of the embedded model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tokenred.embedded.drawing import FRAME_SIZE

if TYPE_CHECKING:
    import torch


def to_pixel_values(frames: np.ndarray) -> torch.Tensor:
    """Turn RGB frames into the pixel values the vision tower expects.

    Parameters
    ----------
    frames : ndarray of uint8, shape (F, H, W, 3)
        Frames of any size; sizes other than 104 x 104 are resized (bicubic, antialiased).

    Returns
    -------
    torch.Tensor of float32, shape (F, 3, 104, 104)
        Pixel values in -1..1.
    """
    import torch

    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must have shape (F, H, W, 3), got {frames.shape}")
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    if pixels.shape[-2:] != (FRAME_SIZE, FRAME_SIZE):
        pixels = torch.nn.functional.interpolate(
            pixels, size=(FRAME_SIZE, FRAME_SIZE), mode="bicubic", antialias=True
        ).clamp_(0, 255)
    return pixels / 127.5 - 1.0
