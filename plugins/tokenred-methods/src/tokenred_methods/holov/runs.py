"""A budget for each run of a frame's tokens, and the most attended tokens of every run."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.pipeline.budget import apportion
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    attention_cue,
    importance_of,
)

EPSILON = 1e-6


class RunsConfig(StrategyConfig):
    """Settings of the runs selector."""

    layer: LayerSpec = Field("features", description="layer of the importance")
    query: Query = Field("any", description=QUERY_TEXT)
    n_runs: Annotated[int, Field(ge=1, le=2**16)] | Literal["by-number"] = Field(
        16,
        description="runs of equal length into which a frame's tokens are cut, in raster order; "
        "'by-number': 1.78 tokens for each that stays make a run, as released for Qwen",
    )
    variance: Literal["frame", "run"] = Field(
        "frame",
        description="whose mean the variance of a token's similarities is scaled to: that of the "
        "attention in its frame, or in its run, where it cancels out, as released",
    )
    variance_weight: float = Field(
        0.09, ge=0, le=1e6, description="weight of the variance beside the attention"
    )
    surplus: Literal["share", "lose"] = Field(
        "share",
        description="where a run earns more tokens than it has: others get them, or they are lost, "
        "as released",
    )


class RunsSelector(AnchorSelector):
    """Divide a frame's number among runs of its tokens, and take the most attended of each run.

    A run is worth the mean of its tokens' attention, and of how much their similarities to the
    others of the run vary. ``n_anchors`` is divided in proportion, remainders to the best runs.

    Shapes
    ------
    cue ``salience@LAYER`` : (frames, tokens)      returns : (frames, n_anchors) indices, run by
    run, in a run the best first (raster order where all of it stays), -1 behind those of a frame
    with fewer

    Source
    ------
    HoloV, arXiv 2510.02912; obananas/HoloV@1d2e65e. Licence of source: Apache-2.0 (written from our
    description).
    Differs: the variance is scaled over the frame, so that content has a say, as the paper wants;
    what a run cannot take goes to others. ``variance: run`` and ``surplus: lose`` are the release.
    """

    config: RunsConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention of one layer."""
        return frozenset({attention_cue(self.config.layer, self.config.query)})

    @property
    def adaptive(self) -> bool:
        """Whether a surplus is lost."""
        return self.config.surplus == "lose"

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the anchors of every frame."""
        (cue,) = self.needs
        importance = importance_of(tokens, cue)
        chosen = [
            self._of_frame(features[keep], values[keep], keep.nonzero()[:, 0], n_anchors)
            for features, values, keep in zip(tokens.features, importance, tokens.keep, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)

    def _of_frame(
        self,
        features: Float[Tensor, "tokens dim"],
        attention: Float[Tensor, "tokens"],
        place: Int[Tensor, "tokens"],
        n_anchors: int,
    ) -> Int[Tensor, "chosen"]:
        """Return the places of the anchors of one frame, run by run."""
        n_anchors = min(n_anchors, len(place))
        if not n_anchors:
            return place[:0]
        parts = torch.arange(len(place), device=place.device)
        runs = [
            each for each in parts.tensor_split(self._n_runs(len(place), n_anchors)) if len(each)
        ]
        worth = self._worth(features, attention, runs)
        counts = self._counts(worth, n_anchors, [len(run) for run in runs])
        picked = []
        for run, count in zip(runs, counts, strict=True):
            if count < len(run):
                best = attention[run].argsort(descending=True, stable=True)[:count]
                run = run[best]
            picked.append(place[run])
        return torch.cat(picked)[:n_anchors]

    def _n_runs(self, n_tokens: int, n_anchors: int) -> int:
        if self.config.n_runs == "by-number":
            return max(1, int(1024 / 576 * n_tokens / n_anchors))
        return self.config.n_runs

    def _worth(
        self, features: Tensor, attention: Tensor, runs: list[Tensor]
    ) -> Float[Tensor, "runs"]:
        """Return what each run is worth, before they are divided by their sum."""
        unit = features.float()
        unit = unit / (unit.norm(dim=-1, keepdim=True) + EPSILON)
        scaled = 1000 * attention
        spread = [_variance(unit[run], own=self.config.variance == "run") for run in runs]
        everywhere = torch.cat(spread).abs().mean() + EPSILON
        worth = []
        for run, each in zip(runs, spread, strict=True):
            if len(run) == 1 and self.config.variance == "run":
                worth.append(attention[run[0]])  # as released, without the factor
                continue
            if self.config.variance == "run":
                scale = scaled[run].abs().mean() / (each.abs().mean() + EPSILON)
            else:
                scale = scaled.abs().mean() / everywhere
            worth.append((scaled[run] + self.config.variance_weight * each * scale).mean())
        return torch.stack(worth)

    def _counts(self, worth: Float[Tensor, "runs"], n_anchors: int, sizes: list[int]) -> list[int]:
        """Return how many tokens of each run stay."""
        share = worth / (worth.sum() + EPSILON)
        if self.config.surplus == "share":
            return apportion(n_anchors, (share * n_anchors).tolist(), sizes)
        counts = (share * n_anchors).floor().long()
        left = min(n_anchors - int(counts.sum()), len(sizes))
        counts[share.argsort(descending=True, stable=True)[: max(0, left)]] += 1
        return [min(count, size) for count, size in zip(counts.tolist(), sizes, strict=True)]


def _variance(unit: Float[Tensor, "tokens dim"], own: bool) -> Float[Tensor, "tokens"]:
    """Return how the similarities of each token to the others vary; with ``own`` a zero for its
    own counts as one of them, as released.
    """
    if len(unit) < 2:
        return unit.new_zeros(len(unit))
    similarity = (unit @ unit.mT).fill_diagonal_(0)
    mean = similarity.sum(-1, keepdim=True) / (len(unit) - 1)
    apart = (similarity - mean).square()
    return (apart if own else apart.fill_diagonal_(0)).sum(-1) / (len(unit) - 1)
