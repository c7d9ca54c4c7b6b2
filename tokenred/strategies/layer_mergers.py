"""Mergers inside the LLM: what becomes of the tokens that a ranking drops."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import LayerMerger
from tokenred.kernels.clustering import cluster_means, density_peaks
from tokenred.types import LayerState


class DropMerger(LayerMerger):
    """Leave the kept tokens as they are and the others behind.

    Shapes
    ------
    kept : (kept,), dropped : (dropped,)      returns : (kept, dim) and (0, dim)

    Source
    ------
    FastV, arXiv 2403.06764; PyramidDrop, arXiv 2410.17247. Written from our description.
    Differs: nothing.
    """

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states, and none."""
        return state.hidden[kept], state.hidden[:0]


class FoldMerger(LayerMerger):
    """Fold dropped tokens, one after the other, into the kept tokens of largest cosine.

    Each fold is the mean of two: a kept token that receives three weighs 1/8 in the end, and the
    tokens 1/8, 1/4 and 1/2 in the order of the sequence. Cosines are those before any fold.

    Shapes
    ------
    kept : (kept,), dropped : (dropped,)      returns : (kept, dim) and (0, dim)

    Source
    ------
    HoliTom, arXiv 2505.21334; cokeshao/HoliTom@e9b2972 ``Qwen2Model_holitom.forward``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: the folds of one token are summed at once, in float32; vectors of zero give no NaN.
    """

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states with the dropped ones folded in."""
        hidden = state.hidden
        if not (len(kept) and len(dropped)):
            return hidden[kept], hidden[:0]
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        target = fold_targets(wide, kept, dropped)
        received = target.bincount(minlength=len(kept))
        folded = wide[kept] * torch.exp2(-received.to(wide))[:, None]
        weight = torch.exp2(-_folds_to_come(target, received).to(wide))
        folded = folded.index_add(0, target, wide[dropped] * weight[:, None])
        return folded.to(hidden.dtype), hidden[:0]


def _folds_to_come(
    target: Int[Tensor, "dropped"], received: Int[Tensor, "kept"]
) -> Int[Tensor, "dropped"]:
    """Return how many folds the target has left when a token's turn comes, its own counted."""
    order = target.argsort(stable=True)
    ends = received.cumsum(0)[target[order]]
    left = ends - torch.arange(len(target), device=target.device)
    return torch.empty_like(target).scatter_(0, order, left)


def fold_targets(
    hidden: Float[Tensor, "tokens dim"], kept: Int[Tensor, "kept"], dropped: Int[Tensor, "dropped"]
) -> Int[Tensor, "dropped"]:
    """Return which of the kept tokens each dropped one resembles most; the first of equals."""
    unit = F.normalize(hidden, dim=-1, eps=1e-12)
    return (unit[dropped] @ unit[kept].mT).argmax(-1)


class RecycleConfig(StrategyConfig):
    """Settings of recycling."""

    share: float = Field(
        0.3, ge=0, le=1, description="share of the dropped tokens that is recycled, plus one token"
    )
    tokens_per_cluster: int = Field(
        10,
        ge=1,
        le=2**20,
        description="recycled tokens that make a cluster; one cluster more is made",
    )


class RecycleMerger(LayerMerger):
    """Cluster the best of the dropped tokens, and append the means of the clusters.

    ``int(share * dropped) + 1`` tokens of the highest scores make
    ``int(recycled / tokens_per_cluster) + 1`` clusters by density peaks, with as many neighbours as
    clusters. Kept tokens stay as they are.

    Shapes
    ------
    kept : (kept,), dropped : (dropped,)      returns : (kept, dim) and (clusters, dim)

    Source
    ------
    SparseVLM, arXiv 2410.04417; Gumpest/SparseVLMs@26a5f48 ``cluster_and_merge``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: equal densities are decided by order, not by noise, so the result is the same in every
    run; means are exact (the release divides by the count plus 1e-6).
    """

    config: RecycleConfig
    makes = True
    _noise: Callable[[int], Tensor] | None = None
    """Gives uniform noise for so many points, to replay a run of the release."""

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states, and the clusters in the order of their centres' scores."""
        hidden = state.hidden
        if not len(dropped):
            return hidden[kept], hidden[:0]
        n_recycled = min(int(self.config.share * len(dropped)) + 1, len(dropped))
        best = scores[dropped].argsort(descending=True, stable=True)[:n_recycled]
        return hidden[kept], self._cluster(hidden[dropped[best]])

    def _cluster(self, points: Tensor) -> Tensor:
        """Return the means of (points, dim) in clusters."""
        n_clusters = min(int(len(points) / self.config.tokens_per_cluster) + 1, len(points))
        noise = self._noise(len(points)) if self._noise is not None else None
        found = density_peaks(points, n_clusters, n_clusters, noise=noise, distances="difference")
        return cluster_means(points, found.label, n_clusters)
