"""Decide by a quantile of the scores."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig


class QuantileConfig(StrategyConfig):
    """Settings of the quantile decision."""

    keep_ratio: float = Field(0.3, ge=0, le=1, description="share of the sources that is kept")


class QuantileDecision:
    """Keep the sources beyond the ``keep_ratio`` quantile of their own frame's scores.

    Strict comparison with the linearly interpolated quantile in float64: without ties
    ``ceil(keep_ratio * (sources - 1))`` are kept.

    Shapes
    ------
    score : (*batch, sources); returns bool of the same shape

    Source
    ------
    TyroneLi/AOT@88455ee ``ota_merge_N_to_M_time`` (the paper has a fixed threshold).
    Licence of source: Apache-2.0 (written from our description).
    Differs: nothing.
    """

    exact: ClassVar[bool] = False

    def __init__(self, config: QuantileConfig) -> None:
        self.config = config

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True where the score lies beyond the quantile."""
        signed = score.double() if keep == "low" else -score.double()
        level = torch.quantile(signed, self.config.keep_ratio, dim=-1, keepdim=True)
        return signed < level
