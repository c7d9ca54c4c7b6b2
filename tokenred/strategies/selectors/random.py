"""Random anchors: the control that every selector has to beat."""

import torch
from torch import Tensor

from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import top_index
from tokenred.types import VisualTokens


class RandomSelector(AnchorSelector):
    """Select tokens of each frame uniformly at random, independently in every frame.

    Shapes
    ------
    returns : (frames, n_anchors)

    Source
    ------
    AOT, arXiv 2603.01400, Table 8 ("w Random Anchors"). Written from the paper.
    Differs: the paper does not say how it draws.
    """

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) distinct indices, reproducible from ``generator``."""
        draw = torch.rand(tokens.keep.shape, generator=generator, device=generator.device)
        return top_index(draw.to(tokens.keep.device).masked_fill(~tokens.keep, -1.0), n_anchors)
