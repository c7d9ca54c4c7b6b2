"""Keep rules across frames: a score for every source, and a decision on the scores."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import ConfigError
from tokenred.interfaces import KeepDecision, KeepScore
from tokenred.types import Coupling


class MaxProbabilityScore(KeepScore):
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

    keep = "low"

    def score(self, coupling: Coupling) -> Tensor:
        """Return the largest probability of every row."""
        rows = coupling.plan.sum(-1, keepdim=True).clamp_min(1e-9)
        return (coupling.plan / rows).amax(-1)


class ExpectedCostScore(KeepScore):
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

    keep = "high"

    def score(self, coupling: Coupling) -> Tensor:
        """Return the expected cost of every row."""
        rows = coupling.plan.sum(-1).clamp_min(1e-9)
        score = (coupling.plan * coupling.cost.to(coupling.plan.dtype)).sum(-1) / rows
        if coupling.forbidden is None:
            return score
        nowhere = (coupling.forbidden | (coupling.anchor_mass <= 0)[..., None, :]).all(-1)
        return score.masked_fill(nowhere, torch.finfo(score.dtype).max)


class ThresholdConfig(StrategyConfig):
    """Settings of the threshold decision."""

    tau: float = Field(0.5, ge=-1e6, le=1e6, description="scores beyond this are kept")
    inclusive: bool = Field(False, description="scores equal to tau are kept as well")


class ThresholdDecision(KeepDecision):
    """Keep the sources whose score is below (or above) ``tau``, strictly unless ``inclusive``.

    Shapes
    ------
    score : (*batch, sources); returns bool of the same shape

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3 (``q_i < tau``). Written from the paper.
    Differs: nothing.
    """

    config: ThresholdConfig

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True where the score lies on the kept side of ``tau``."""
        tau = self.config.tau
        beyond = score < tau if keep == "low" else score > tau
        return beyond | (score == tau) if self.config.inclusive else beyond


class QuantileConfig(StrategyConfig):
    """Settings of the quantile decision."""

    keep_ratio: float = Field(0.3, ge=0, le=1, description="share of the sources that is kept")


class QuantileDecision(KeepDecision):
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

    config: QuantileConfig

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True where the score lies beyond the quantile."""
        signed = score.double() if keep == "low" else -score.double()
        level = torch.quantile(signed, self.config.keep_ratio, dim=-1, keepdim=True)
        return signed < level


class ShareConfig(StrategyConfig):
    """Settings of the share decision."""

    drop_ratio: float = Field(0.7, ge=0, le=1, description="share of the sources that goes")
    rounds_down: Literal["kept", "dropped"] = Field(
        "kept", description="which of the two numbers is rounded down"
    )
    released: bool = Field(
        False, description="with the rounding errors of floats: of 10 tokens, 1 - 0.9 keeps none"
    )


class ShareDecision(KeepDecision):
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

    config: ShareConfig

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


class CountDecision(KeepDecision):
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

    exact = True

    def decide(self, score: Tensor, *, keep: Literal["low", "high"], n_keep: int | None) -> Tensor:
        """Return True for the ``n_keep`` most distinct sources."""
        if n_keep is None:
            raise ConfigError("keep decision 'count' needs budget.mode: exact", ["keep", "decide"])
        order = score.argsort(dim=-1, descending=keep == "high", stable=True)[..., :n_keep]
        return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)
