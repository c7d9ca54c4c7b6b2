"""More tokens for frames that stand out of the video."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import VisualTokens
from tokenred.interfaces import BudgetAllocator
from tokenred_methods.vidcom2.commonness import CommonnessConfig, commonness


class UniquenessConfig(CommonnessConfig):
    """Settings of the uniqueness allocator."""

    temperature: float = Field(0.01, ge=1e-6, le=1e6, description="of the softmax over the frames")
    released: bool = Field(
        False, description="one token a frame at least and all of them at most, as released"
    )


class UniquenessAllocator(BudgetAllocator):
    """Scale each frame's anchors by ``1 + p - mean(p)``, ``p`` a softmax of how unique frames are.

    A frame is unique if its tokens are unlike the centre of the video, see the selector ``rarity``.
    No frame gets more than twice its share, and only one that stands out alone comes near to that.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : (frames,)

    Source
    ------
    VidCom2, arXiv 2505.14454; xuyang-liu16/VidCom2@944a17d ``compute_scales``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: what a full frame cannot take is left to the stage, which gives it to others under an
    exact budget; ``released`` loses it, so that a budget of 1 still drops tokens.
    """

    config: UniquenessConfig

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many anchors each frame gets; ``n_anchors`` is their average."""
        counts = n_anchors * frame_factors(tokens, self.config)
        return counts.clamp(1, tokens.keep.shape[1]) if self.config.released else counts


def frame_factors(tokens: VisualTokens, config: UniquenessConfig) -> Float[Tensor, "frames"]:
    """Return by what the number of each frame is multiplied, 1 on average."""
    common, _ = commonness(tokens, config)
    alive = tokens.keep.sum(-1)
    mean = (common * tokens.keep).sum(-1) / alive.clamp_min(1)
    mean = mean.where(alive > 0, float(len(config.widths)))  # an empty frame: the most
    weight = (-mean / config.temperature).softmax(0)
    return 1 + weight - weight.mean()
