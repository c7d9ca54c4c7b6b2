"""Numbers of anchors by how sharply the video turns at each frame."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import BudgetAllocator

EPSILON = 1e-6


class CurvatureConfig(StrategyConfig):
    """Settings of the curvature allocator."""

    temperature: float = Field(
        0.7, ge=1e-3, le=1e6, description="of the soft-max that makes weights of curvatures"
    )
    at_least: int = Field(
        1, ge=0, le=2**20, description="anchors that every frame gets, if there are so many"
    )
    released: bool = Field(
        False,
        description="whole numbers, all of the remainder to one frame, and a video of one frame is "
        "kept whole",
    )


class CurvatureAllocator(BudgetAllocator):
    """Give more anchors to frames where the path of the video through feature space turns.

    The curvature of a frame is one minus the cosine of the steps that lead to it and from it,
    between mean tokens of length one; the first and the last frame count as a right angle. Every
    frame has its minimum, and the rest is divided by a soft-max of curvatures.

    Shapes
    ------
    returns : (frames,)

    Source
    ------
    V-CAST, arXiv 2603.27650; xinyouu/V-CAST@c235ef3 ``compressor/v_cast``. Licence of source: MIT
    (written from our description).
    Differs: fractions are handed on, so that the stage gives remainders to several frames;
    ``released`` gives them all to the frame with the largest fraction until it is full.
    """

    config: CurvatureConfig

    @property
    def whole(self) -> bool:
        """Whether its numbers are those of the release."""
        return self.config.released

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many anchors each frame gets; ``n_anchors`` is their average."""
        weights = turn_weights(curvature(frame_directions(tokens)), self.config.temperature)
        frames, n = tokens.keep.shape
        least = self.config.at_least
        if not self.config.released:
            rest = frames * max(0.0, n_anchors - least)
            return min(least, n_anchors) + weights.double() * rest
        if frames == 1:
            return tokens.keep.sum(-1).double()
        budget = max(1, round(frames * n_anchors), frames * least)
        return turn_counts(weights, budget, least, n)


def frame_directions(tokens: VisualTokens) -> Float[Tensor, "frames dim"]:
    """Return the mean token of every frame, scaled to length one."""
    wide = torch.promote_types(tokens.features.dtype, torch.float32)
    features = tokens.features.to(wide).masked_fill(~tokens.keep[..., None], 0.0)
    mean = features.sum(1) / tokens.keep.sum(-1, keepdim=True).clamp_min(1)
    return F.normalize(mean, dim=-1, eps=EPSILON)


def curvature(directions: Float[Tensor, "frames dim"]) -> Float[Tensor, "frames"]:
    """Return how sharply the path turns at each frame, from 0 (straight on) to 2 (back)."""
    found = directions.new_ones(len(directions))
    steps = F.normalize(directions.diff(dim=0), dim=-1, eps=EPSILON)
    found[1:-1] = 1 - (steps[1:] * steps[:-1]).sum(-1)
    return found


def turn_weights(
    curvatures: Float[Tensor, "frames"], temperature: float
) -> Float[Tensor, "frames"]:
    """Return weights of the frames that sum to one."""
    return (curvatures / temperature).softmax(-1)


def turn_counts(
    weights: Float[Tensor, "frames"], budget: int, least: int, most: int
) -> Float[Tensor, "frames"]:
    """Return whole numbers as released: the remainder goes to one frame until that is full.

    Parameters
    ----------
    budget : tokens of the video
    least, most : of a frame; no minimum holds if the budget is too small for it
    """
    frames = len(weights)
    budget = min(max(budget, 0), frames * most)
    least = least if budget >= frames * least else 0
    positive = weights.clamp_min(0)
    total = float(positive.sum())
    share = positive / total if total > 0 else torch.full_like(positive, 1 / frames)
    raw = share * (budget - frames * least)
    counts = least + raw.floor().clamp_max(most - least)
    fraction = (raw - raw.floor()).masked_fill(counts >= most, -1.0)
    left = budget - int(counts.sum())
    while left > 0 and bool((counts < most).any()):
        frame = int(fraction.argmax())
        given = min(left, most - int(counts[frame]))
        counts[frame] += given
        fraction[frame] = -1.0 if counts[frame] >= most else fraction[frame]
        left -= given
    return counts.double()
