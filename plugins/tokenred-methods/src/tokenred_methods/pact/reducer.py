"""Cluster what a ranking keeps: centres that are dense and far apart take in the others."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import LayerReducer
from tokenred.kernels.clustering import cluster_means
from tokenred.slots import Slot, build
from tokenred.types import LayerReduction, LayerState, LayerStep


class ClusteredConfig(StrategyConfig):
    """Settings of clusters among kept tokens."""

    keep: Slot[LayerReducer] = Field(description="the reducer whose kept tokens are clustered")
    cutoff: float = Field(
        0.21, ge=0, le=2, description="cosine distance from a centre at which others may begin"
    )
    take_in: float | None = Field(
        1.5,
        ge=0,
        le=1e6,
        description="dropped tokens join their nearest centre within so many times the cutoff; "
        "null leaves them out",
    )
    half_weights: bool = Field(
        False, description="logarithms of sizes go through half precision, as in the release"
    )


class Clusters(NamedTuple):
    """Centres among kept tokens, ascending, and the centre of every token; -1 has none.

    Labels are places among the centres, of the kept tokens and then of the dropped ones.
    """

    centres: Int[Tensor, "centres"]
    label: Int[Tensor, "tokens"]


class ClusteredReducer(LayerReducer):
    """Replace the kept visual tokens by the means of their clusters, weighed by their sizes.

    From the densest token on, one is a centre if it is further than the cutoff from all centres
    before it, by the cosine of the next layer's keys. Every token joins its nearest centre, dropped
    ones if they are near enough. A centre keeps its place and its position; its state is the mean
    of its members, and later layers add the logarithm of its size to its scores. Of equally dense
    tokens the later one goes first.

    Shapes
    ------
    state.hidden : (tokens, dim)      returns : ``source`` (left,), ``hidden`` (left, dim)

    Source
    ------
    PACT, arXiv 2504.08966; orailix/PACT@cf9a0c9 ``DBDPC``. Licence of source: MIT (written from our
    description).
    Differs: nothing with ``half_weights``; centres are found one by one and not in rounds, which
    gives the same ones.
    """

    config: ClusteredConfig

    def __init__(self, config: ClusteredConfig) -> None:
        super().__init__(config)
        self.keep = build(LayerReducer, config.keep)

    def steps(self, n_layers: int) -> Sequence[LayerStep]:
        """Return the steps of the reducer that keeps."""
        return self.keep.steps(n_layers)

    def reduce(self, state: LayerState) -> LayerReduction | None:
        """Return the centres and whatever is not visual."""
        found = self.keep.reduce(state)
        if found is None:
            found = LayerReduction(torch.arange(len(state.hidden), device=state.hidden.device))
        hidden = state.hidden[found.source] if found.hidden is None else found.hidden
        is_kept = (found.source >= 0) & state.visual[found.source.clamp_min(0)]
        kept = is_kept.nonzero()[:, 0]
        if not len(kept):
            return found
        dropped = state.visual.clone()
        dropped[found.source[kept]] = False
        dropped = dropped.nonzero()[:, 0]
        if self.config.take_in is None:
            dropped = dropped[:0]
        members = torch.cat([found.source[kept], dropped])
        keys = state.projections("next").key.float().transpose(0, 1).flatten(1)[members]
        clusters = find_clusters(keys, len(kept), self.config)
        states, sizes = _merged(torch.cat([hidden[kept], state.hidden[dropped]]), clusters)
        hidden = hidden.clone()
        centres = kept[clusters.centres]
        hidden[centres] = states
        weights = torch.zeros(len(hidden), device=hidden.device)
        weights[centres] = self._log(sizes)
        stays = ~is_kept
        stays[centres] = True
        return LayerReduction(
            found.source[stays], hidden[stays], found.positions, found.cut_cache, weights[stays]
        )

    def _log(self, sizes: Float[Tensor, "centres"]) -> Float[Tensor, "centres"]:
        return sizes.half().log().float() if self.config.half_weights else sizes.log()


def find_clusters(
    keys: Float[Tensor, "tokens dim"], n_kept: int, config: ClusteredConfig
) -> Clusters:
    """Cluster kept tokens, which come first, and dropped ones."""
    unit = torch.nn.functional.normalize(keys, dim=-1)
    distance = (1 - unit @ unit[:n_kept].mT).clamp_min(0)
    among = distance[:n_kept].fill_diagonal_(0)
    centres = _centres(among, config.cutoff)
    nearest, label = distance[:, centres].min(-1)
    if len(keys) > n_kept and config.take_in is not None:
        label[nearest > config.cutoff * config.take_in] = -1
    return Clusters(centres, label)


def _centres(distance: Float[Tensor, "kept kept"], cutoff: float) -> Int[Tensor, "centres"]:
    density = (-(distance / 2).square()).exp().sum(-1)
    free, found = torch.ones_like(density, dtype=torch.bool), []
    for token in density.argsort(stable=True).flip(0).tolist():
        if bool(free[token]):
            found.append(token)
            free &= distance[token] > cutoff
    return torch.tensor(sorted(found), device=distance.device)


def _merged(
    hidden: Float[Tensor, "tokens dim"], clusters: Clusters
) -> tuple[Float[Tensor, "centres dim"], Float[Tensor, "centres"]]:
    """Return the mean and the size of every cluster."""
    joined = clusters.label >= 0
    label, n = clusters.label[joined], len(clusters.centres)
    return cluster_means(hidden[joined], label, n), torch.bincount(label, minlength=n).float()
