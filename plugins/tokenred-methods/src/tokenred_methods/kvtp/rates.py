"""Numbers of anchors by how relevant each frame is to the question."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import InputError, StrategyConfig, VisualTokens
from tokenred.interfaces import BudgetAllocator

CUE = "frame-relevance"
HARD = 10
"""Frames below which the release's hard selection takes the top tenth of, which is none."""


class RelevanceRatesConfig(StrategyConfig):
    """Settings of the relevance-rates allocator."""

    temperature: float = Field(
        2.0, ge=1e-3, le=1e6, description="of the soft-max that makes rates of relevance"
    )
    refuse_short: bool = Field(
        False,
        description="refuse videos of fewer than ten frames, as the release does with its hard "
        "selection on, which has no other effect",
    )


class RelevanceRatesAllocator(BudgetAllocator):
    """Divide the anchors among the frames by a soft-max of their relevance.

    Shapes
    ------
    cue ``frame-relevance`` : (frames,), or (frames, parts), of which the largest counts
    returns : (frames,)

    Raises
    ------
    InputError
        With ``refuse_short``, if there are fewer than ten frames.

    Source
    ------
    KVTP, arXiv 2503.10742; 1999Lyd/KVTP@b634abb ``llava/model/llava_arch.py``. Licence of source:
    MIT (written from our description).
    Differs: nothing; under an exact budget, what a frame cannot take goes to others.
    """

    config: RelevanceRatesConfig
    needs = frozenset({CUE})
    rounding = "floor"

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many anchors each frame gets; ``n_anchors`` is their average."""
        frames, n = tokens.keep.shape
        if self.config.refuse_short and frames < HARD:
            raise InputError(f"as released, a video needs {HARD} frames, this one has {frames}")
        rates = frame_rates(tokens.cues[CUE], n_anchors / n, self.config.temperature)
        return rates.double() * n


def frame_rates(
    relevance: Float[Tensor, "frames *parts"], ratio: float, temperature: float = 2.0
) -> Float[Tensor, "frames"]:
    """Return the share of its tokens that each frame keeps, ``ratio`` on average.

    Parameters
    ----------
    relevance : of a frame, or of a frame to each part of the question
    """
    wide = torch.promote_types(relevance.dtype, torch.float32)
    scores = relevance.to(wide).reshape(len(relevance), -1).amax(-1)
    weights = ((scores - scores.mean()) / temperature).softmax(-1)
    return weights * len(weights) * ratio
