"""Decide by an exact count."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import ConfigError


class CountConfig(StrategyConfig):
    """No settings: the budget says how many."""


class CountDecision:
    """Keep exactly as many sources as the budget leaves, the most distinct first.

    Equal scores are decided in raster order.

    Shapes
    ------
    score : (*batch, sources); returns bool of the same shape with ``n_keep`` True in every row

    Source
    ------
    Our own; it replaces the hand-tuned tau of AOT, arXiv 2603.01400, section 7.
    Differs: from AOT, by design.
    """

    exact: ClassVar[bool] = True

    def __init__(self, config: CountConfig) -> None:
        self.config = config

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True for the ``n_keep`` most distinct sources."""
        if n_keep is None:
            raise ConfigError("keep decision 'count' needs budget.mode: exact", ["keep", "decide"])
        order = score.argsort(dim=-1, descending=keep == "high", stable=True)[..., :n_keep]
        return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)
