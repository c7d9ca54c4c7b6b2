"""Encode the frames of a clip, by a video LLM or by a vision tower alone."""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.models.inputs.media import MediaInput
from tokenred.models.loading import LoadedModel
from tokenred.types import VisualTokens


@runtime_checkable
class Encoder(Protocol):
    """Turns clips into visual tokens; ``name`` is printed."""

    name: str

    def check(self, needs: Collection[str]) -> None:
        """Raise a ``CapabilityError`` for a cue that the model cannot give."""
        ...

    def encode(
        self,
        frames: UInt8[Tensor, "frames height width 3"],
        frame_times: Float[Tensor, "frames"],
        needs: Collection[str] = frozenset(),
    ) -> VisualTokens:
        """Encode the frames of one clip, with the cues asked for."""
        ...


class ModelEncoder:
    """The vision side of a loaded model.

    Parameters
    ----------
    loaded : of any family whose adapter prepares its own inputs
    name : as printed; the model's own by default
    """

    def __init__(self, loaded: LoadedModel, name: str | None = None) -> None:
        self.name = name or loaded.name
        self._loaded = loaded

    def check(self, needs: Collection[str]) -> None:
        """Raise a ``CapabilityError`` for a cue that the model cannot give."""
        self._loaded.session.check(needs)

    @torch.no_grad()
    def encode(
        self,
        frames: UInt8[Tensor, "frames height width 3"],
        frame_times: Float[Tensor, "frames"],
        needs: Collection[str] = frozenset(),
    ) -> VisualTokens:
        """Encode up to where a pipeline takes over: behind the projector, before any pooling."""
        media = MediaInput("video", (frames,), frame_times=(frame_times,))
        inputs = self._loaded.prepare(media).inputs
        (clip,) = self._loaded.session.encode(inputs, needs, media.frame_times)
        return clip.tokens
