"""Anchors that are unlike their frame, or long."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenred import VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import top_index
from tokenred_methods.vcast.curvature import EPSILON, frame_directions


class StandingOutSelector(AnchorSelector):
    """Select the tokens that stand out: unlike the mean of their frame, and of great length.

    A token's score is one minus its cosine with the mean token, plus its length, scaled to lie
    between 0 and 1 in the frame.

    Shapes
    ------
    returns : (frames, n_anchors), best first

    Source
    ------
    V-CAST, arXiv 2603.27650; xinyouu/V-CAST@c235ef3 ``compressor/v_cast``. Licence of source: MIT
    (written from our description).
    Differs: nothing.
    """

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the anchors of every frame."""
        wide = torch.promote_types(tokens.features.dtype, torch.float32)
        features, keep = tokens.features.to(wide), tokens.keep
        unit = F.normalize(features, dim=-1, eps=EPSILON)
        apart = 1 - (unit @ frame_directions(tokens)[..., None])[..., 0]
        length = features.norm(dim=-1)
        low = length.masked_fill(~keep, torch.inf).amin(-1, keepdim=True)
        high = length.masked_fill(~keep, -torch.inf).amax(-1, keepdim=True)
        score = apart + (length - low) / (high - low + EPSILON)
        return top_index(score.masked_fill(~keep, -torch.inf), n_anchors)
