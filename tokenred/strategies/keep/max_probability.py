"""Score by the largest assignment probability."""

from typing import ClassVar, Literal

from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import Coupling


class MaxProbabilityConfig(StrategyConfig):
    """No settings."""


class MaxProbabilityScore:
    """Score a source by how surely it belongs to one anchor: ``q_i = max_j T_ij / sum_j T_ij``.

    Sources with a low score, which no anchor claims, are kept.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors); returns (*batch, sources) in [0, 1]

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 15; TyroneLi/AOT@88455ee. Licence of source: Apache-2.0 (written from
    our description).
    Differs: nothing; row sums are floored at 1e-9 as in the release.
    """

    keep: ClassVar[Literal["low", "high"]] = "low"

    def __init__(self, config: MaxProbabilityConfig) -> None:
        self.config = config

    def score(self, coupling: Coupling) -> Tensor:
        """Return the largest probability of every row."""
        rows = coupling.plan.sum(-1, keepdim=True).clamp_min(1e-9)
        return (coupling.plan / rows).amax(-1)
