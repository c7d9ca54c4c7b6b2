"""Decide by a share of the sources."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig


class ShareConfig(StrategyConfig):
    """Settings of the share decision."""

    drop_ratio: float = Field(0.7, ge=0, le=1, description="share of the sources that goes")
    rounds_down: Literal["kept", "dropped"] = Field(
        "kept", description="which of the two numbers is rounded down"
    )
    released: bool = Field(
        False, description="with the rounding errors of floats: of 10 tokens, 1 - 0.9 keeps none"
    )


class ShareDecision:
    """Keep a fixed share of the sources, the most distinct first; equal ones in raster order.

    Shapes
    ------
    score : (*batch, sources); returns bool of the same shape, equally many True in every row

    Source
    ------
    KD-TAO/DyCoke@dd74634 ``dycole_ttm`` (``rounds_down: kept``) and
    yaolinli/TimeChat-Online@25a1578 ``token_drop``, relative (``rounds_down: dropped``). Licence of
    source: Apache-2.0 and BSD-3-Clause (written from our description).
    Differs: products that miss a whole number by a rounding error count as that number, unless
    ``released``.
    """

    exact: ClassVar[bool] = False

    def __init__(self, config: ShareConfig) -> None:
        self.config = config

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True for the most distinct sources."""
        count = self._kept(score.shape[-1])
        order = score.argsort(dim=-1, descending=keep == "high", stable=True)[..., :count]
        return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)

    def _kept(self, sources: int) -> int:
        ratio = self.config.drop_ratio
        if self.config.rounds_down == "kept":
            return self._down((1 - ratio) * sources)
        return sources - self._down(ratio * sources)

    def _down(self, number: float) -> int:
        return math.floor(number if self.config.released else round(number, 9))
