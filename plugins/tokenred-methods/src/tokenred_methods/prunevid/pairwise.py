"""Places whose tokens are alike on average over all pairs of frames."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig
from tokenred.interfaces import StaticRule


class PairwiseConfig(StrategyConfig):
    """Settings of the pairwise rule."""

    tau: float = Field(
        0.8, ge=-1, le=1, description="the mean cosine over pairs of frames has to be above"
    )


class PairwiseRule(StaticRule):
    """Call a place static if its tokens in any two frames of the segment are alike on average.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : (tokens,) bool

    Source
    ------
    PruneVid, arXiv 2412.16117; Visual-AI/PruneVid@b12600c ``merge_frames_dynamic``.
    Licence of source: CC BY-NC-SA 4.0 (written from our description).
    Differs: nothing in the result; the sum over pairs is taken from the sum of the unit vectors,
    which is linear in the frames.
    """

    config: PairwiseConfig

    def static(self, features: Float[Tensor, "frames tokens dim"]) -> Bool[Tensor, "tokens"]:
        """Return True where the mean over ordered pairs of different frames is above ``tau``."""
        frames = len(features)
        unit = F.normalize(features.float(), dim=-1)
        pairs = unit.sum(0).square().sum(-1) - frames  # a frame with itself is no pair
        return pairs / (frames * (frames - 1)) > self.config.tau
