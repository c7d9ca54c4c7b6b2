"""Videos that fit into a test: tokens with every cue that is asked for, drawn from a seed."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.config import is_of_frames
from tokenred.types import Newlines, NewlineToken, Segments, VisualTokens

POOLER_WIDTH, KEY_WIDTH, TOWER_WIDTH, PIXELS_WIDTH, TEXT_WIDTH = 4, 3, 6, 12, 5
"""Widths of the cues that are vectors."""

WIDTHS: Mapping[str, int] = {
    "attention": 0,
    "class-attention": 0,
    "patch-attention": 0,
    "salience": 0,
    "keys": KEY_WIDTH,
    "tower": TOWER_WIDTH,
    "pixels": PIXELS_WIDTH,
    "text-similarity": TEXT_WIDTH,
}
"""Cue, up to its ``@``, to its width for each token; 0 is attention, one number a token."""


def video_tokens(
    frames: int = 4,
    grid: tuple[int, int] = (6, 6),
    *,
    needs: Iterable[str] = (),
    seed: int = 0,
    dim: int = 5,
    native_pool: str = "none",
    similar: float = 0.5,
    cues: Mapping[str, int] | None = None,
    newlines: Newlines = "none",
) -> VisualTokens:
    """Return a video whose frames share a scene under noise.

    Parameters
    ----------
    needs : names of the cues to fill in, such as ``pipeline.needs``
    similar : weight of the scene, against noise
    cues : width of cues of your own by name; 0 is one positive number a token
    newlines : where the model puts newline tokens
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1]
    scene = torch.randn(tokens, dim, generator=generator)
    noise = torch.randn(frames, tokens, dim, generator=generator)
    found = {name: drawn_cue(name, frames, tokens, seed, cues) for name in sorted(needs)}
    video = VisualTokens.of(
        similar * scene + (1 - similar) * noise, grid, cues=found, native_pool=native_pool
    )
    newline = None if newlines == "none" else NewlineToken(newlines, torch.full((dim,), 7.0))
    return replace(video, newline=newline)


def drawn_cue(
    name: str, frames: int, tokens: int, seed: int = 0, cues: Mapping[str, int] | None = None
) -> Float[Tensor, "frames *rest"]:
    """Return a cue as a vision tower would give it; cues of different names are different.

    Raises
    ------
    ValueError
        If nothing says how wide the cue is.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    if is_of_frames(name):
        return frame_cue(name, frames, generator)
    width = cue_width(name, cues)
    if width:
        return torch.randn(frames, tokens, width, generator=generator)
    received = torch.rand(frames, tokens, generator=generator) ** 3 + 1e-4
    return received / received.sum(-1, keepdim=True)


def frame_cue(name: str, frames: int, generator: torch.Generator) -> Float[Tensor, "frames *rest"]:
    """Return a cue of frames: a vector each from the pooling head, else a positive number."""
    if name == "pooler":
        return torch.randn(frames, POOLER_WIDTH, generator=generator)
    return torch.rand(frames, generator=generator) + 0.1


def cue_width(name: str, cues: Mapping[str, int] | None = None) -> int:
    """Return how wide a cue is for each token; 0 is one positive number."""
    widths = {**WIDTHS, **(cues or {})}
    for known in (name, name.partition("@")[0].removeprefix("joint-")):
        if known in widths:
            return widths[known]
    raise ValueError(f"no rule to draw the cue '{name}': name its width in `cues`")


def half(tokens: VisualTokens) -> VisualTokens:
    """Return the tokens with features and cues in bfloat16."""
    cues = {name: cue.bfloat16() for name, cue in tokens.cues.items()}
    return replace(tokens, features=tokens.features.bfloat16(), cues=cues)


def without_a_say(tokens: VisualTokens) -> VisualTokens:
    """Return tokens that differ only in what dropped ones look like, and what their cues are."""
    gone = ~tokens.keep

    def other(values: Tensor) -> Tensor:
        return values.clone().index_put((gone,), 1 + 3 * values[gone].abs())

    cues = {name: cue if is_of_frames(name) else other(cue) for name, cue in tokens.cues.items()}
    return replace(tokens, features=other(tokens.features), cues=cues)


def cut_at(tokens: VisualTokens, place: int) -> VisualTokens:
    """Return the tokens as a cut stage leaves them: in one segment, or in two."""
    frames = len(tokens.keep)
    cut = place % frames
    return replace(tokens, segments=Segments((0, cut, frames) if cut else (0, frames)))
