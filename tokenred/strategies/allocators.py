"""How the anchors of a stage are divided among the frames."""

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from tokenred.config import OF_FRAMES, StrategyConfig, is_of_frames
from tokenred.errors import ConfigError, InputError, quoted
from tokenred.interfaces import BudgetAllocator
from tokenred.types import Segments, VisualTokens


class EqualAllocator(BudgetAllocator):
    """Give every frame the same number of anchors.

    Shapes
    ------
    returns : (frames,)

    Source
    ------
    Our own control: what nearly every method does.
    Differs: nothing to differ from.
    """

    divides = False

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return ``n_anchors`` for every frame."""
        return torch.full((len(tokens.features),), float(n_anchors))


def _of_frames(name: str) -> str:
    if not is_of_frames(name) or name == "pooler":
        raise ConfigError(f"numbers of frames are a cue named {OF_FRAMES}..., not {quoted(name)}")
    return name


FrameCue = Annotated[str, AfterValidator(_of_frames)]
"""The name of a cue with numbers of every frame, which the caller brings."""


class GivenAllocatorConfig(StrategyConfig):
    """Settings of the given allocator."""

    cue: FrameCue = Field(
        "frame-weights", description="cue that the caller brings, one number a frame"
    )
    as_counts: bool = Field(
        False, description="the numbers are the anchors themselves, not shares of the stage's"
    )


class GivenAllocator(BudgetAllocator):
    """Divide the anchors as the caller says: by weights of the frames, or in given numbers.

    Shapes
    ------
    ``cue`` : (frames,), not negative      returns : (frames,)

    Raises
    ------
    InputError
        If a number is negative, or no frame has any weight.

    Source
    ------
    Ours, for methods that judge frames outside of tokenred.
    Differs: nothing to differ from.
    """

    config: GivenAllocatorConfig

    @property
    def needs(self) -> frozenset[str]:
        """The numbers of the frames."""
        return frozenset({self.config.cue})

    @property
    def whole(self) -> bool:
        """Whether the numbers are the anchors themselves."""
        return self.config.as_counts

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many anchors each frame gets."""
        given = tokens.cues[self.config.cue].double()
        if given.ndim != 1:
            raise InputError(f"cue '{self.config.cue}' has more than one number a frame")
        if bool((given < 0).any()):
            raise InputError(f"cue '{self.config.cue}' has a negative number")
        if self.config.as_counts:
            return given.round()
        total = given.sum()
        if not bool(total > 0):
            raise InputError(f"cue '{self.config.cue}' gives no frame any weight")
        return n_anchors * len(given) * given / total


class AnchorFramesConfig(StrategyConfig):
    """Settings of the anchor-frames allocator."""

    every: int = Field(
        4, ge=1, le=2**20, description="frames from one anchor frame to the next (p)"
    )


class AnchorFramesAllocator(BudgetAllocator):
    """Give the anchors of a segment to its every-th frames, counted from its last one backwards.

    A segment gets anchors in proportion to its frames, and its anchor frames get equal numbers of
    them; all other frames get none.

    Shapes
    ------
    returns : (frames,)

    Source
    ------
    FastVID's anchor frames; LunarShen/FastVID@a40a109 ``Qwen2Model.forward``. Licence of source:
    MIT (written from our description).
    Differs: fractions are handed on; the releases lose them or give them to some of the frames.
    """

    config: AnchorFramesConfig
    rounding = "floor"

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many anchors each frame gets."""
        counts = torch.zeros(len(tokens.features), dtype=torch.float64)
        for frames in tokens.segments or Segments((0, len(counts))):
            hosts = list(frames)[:: -self.config.every]
            counts[hosts] = n_anchors * len(frames) / len(hosts)
        return counts
