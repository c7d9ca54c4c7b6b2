"""Decide by a fixed threshold."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig


class ThresholdConfig(StrategyConfig):
    """Settings of the threshold decision."""

    tau: float = Field(0.5, description="scores beyond this are kept")
    inclusive: bool = Field(False, description="scores equal to tau are kept as well")


class ThresholdDecision:
    """Keep the sources whose score is below (or above) ``tau``, strictly unless ``inclusive``.

    Shapes
    ------
    score : (*batch, sources); returns bool of the same shape

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3 (``q_i < tau``). Written from the paper.
    Differs: nothing.
    """

    exact: ClassVar[bool] = False

    def __init__(self, config: ThresholdConfig) -> None:
        self.config = config

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True where the score lies on the kept side of ``tau``."""
        tau = self.config.tau
        beyond = score < tau if keep == "low" else score > tau
        return beyond | (score == tau) if self.config.inclusive else beyond
