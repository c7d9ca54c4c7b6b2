"""Places that every frame of a window repeats from the one before."""

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig
from tokenred.interfaces import StaticRule
from tokenred_methods.holitom.similarity import consecutive_similarity


class ConsecutiveConfig(StrategyConfig):
    """Settings of the consecutive rule."""

    tau: float = Field(
        0.8, ge=-1, le=1, description="every cosine of two frames in a row has to be above"
    )


class ConsecutiveRule(StaticRule):
    """Call a place static if it repeats from every frame of the window to the next.

    A place may drift: its first and last token need not be alike.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : (tokens,) bool

    Source
    ------
    HoliTom, arXiv 2505.21334; cokeshao/HoliTom@e9b2972 ``get_static_dynamic_features``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: nothing.
    """

    config: ConsecutiveConfig

    def static(self, features: Float[Tensor, "frames tokens dim"]) -> Bool[Tensor, "tokens"]:
        """Return True where all consecutive similarities are above ``tau``."""
        return (consecutive_similarity(features) > self.config.tau).all(0)
