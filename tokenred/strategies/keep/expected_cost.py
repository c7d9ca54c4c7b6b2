"""Score by the expected transport cost."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import Coupling


class ExpectedCostConfig(StrategyConfig):
    """No settings."""


class ExpectedCostScore:
    """Score a source by what moving it costs on average: ``sum_j p_ij C_ij``.

    Sources with a high score, which no anchor resembles, are kept. Unlike the largest probability
    it does not fall when a source is equally close to several anchors. A source that may go to no
    anchor has the highest score of all.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors); returns (*batch, sources), in the cost's unit

    Source
    ------
    Our own alternative to Eq. 15 of AOT, arXiv 2603.01400.
    Differs: from AOT, by design.
    """

    keep: ClassVar[Literal["low", "high"]] = "high"

    def __init__(self, config: ExpectedCostConfig) -> None:
        self.config = config

    def score(self, coupling: Coupling) -> Tensor:
        """Return the expected cost of every row."""
        rows = coupling.plan.sum(-1).clamp_min(1e-9)
        score = (coupling.plan * coupling.cost.to(coupling.plan.dtype)).sum(-1) / rows
        if coupling.forbidden is None:
            return score
        nowhere = (coupling.forbidden | (coupling.anchor_mass <= 0)[..., None, :]).all(-1)
        return score.masked_fill(nowhere, torch.finfo(score.dtype).max)
