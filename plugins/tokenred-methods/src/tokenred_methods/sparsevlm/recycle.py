"""What becomes of the tokens that SparseVLM drops."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import LayerMerger
from tokenred.kernels.clustering import cluster_means, density_peaks
from tokenred.types import LayerState


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
    ties: Literal["order", "noise"] = Field(
        "order",
        description="what decides between equally dense tokens: their order, or random numbers of "
        "torch, as released, so that runs differ",
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
    Differs: equal densities are decided by order, so that the result is the same in every run
    (``ties``); means are exact (the release divides by the count plus 1e-6).
    """

    config: RecycleConfig
    makes = True

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states, and the clusters in the order of their centres' scores."""
        hidden = state.hidden
        if not len(dropped):
            return hidden[kept], hidden[:0]
        n_recycled = min(int(self.config.share * len(dropped)) + 1, len(dropped))
        best = scores[dropped].argsort(descending=True, stable=True)[:n_recycled]
        noise = None if self.config.ties == "order" else torch.rand(n_recycled)
        points = hidden[dropped[best]]
        return hidden[kept], recycled(points, self.config.tokens_per_cluster, noise)


def recycled(
    points: Float[Tensor, "points dim"], per_cluster: int, noise: Tensor | None = None
) -> Float[Tensor, "clusters dim"]:
    """Return the means of the points in clusters, in the order of the centres' scores.

    Parameters
    ----------
    noise : (points,) in [0, 1), decides between equal densities as in a run of the release; by
        default the order does
    """
    n_clusters = min(int(len(points) / per_cluster) + 1, len(points))
    found = density_peaks(points, n_clusters, n_clusters, noise=noise, distances="difference")
    return cluster_means(points, found.label, n_clusters)
