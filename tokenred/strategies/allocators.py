"""How the anchors of a stage are divided among the frames."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
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
