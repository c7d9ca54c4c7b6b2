"""Density-peak clustering on nearest neighbours (DPC-KNN), which several methods have copied.

They share the algorithm and differ in small things, each an argument here:

========================  ============  ===================  ==============  =====================
method                    neighbours    distances            others go to    features of a cluster
========================  ============  ===================  ==============  =====================
PruneVid                  7             product formula      nearest centre  mean
HoliTom, outer stage      min(7, n)     product formula      nearest centre  centre weighs 0.6
FastVID                   4             product formula      by cosine       centre weighs >= 0.6
SparseVLM                 the clusters  differences          nearest centre  sum / (count + 1e-6)
========================  ============  ===================  ==============  =====================

All add ``1e-6`` times uniform noise to the densities, which decides between equals. Here the noise
is an argument; without it, of two equally dense points the earlier counts as denser.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.errors import InputError

NOISE_SCALE = 1e-6
_MODES = {
    "product": "use_mm_for_euclid_dist_if_necessary",
    "difference": "donot_use_mm_for_euclid_dist",
}


@dataclass(frozen=True)
class DensityPeaks:
    """What density-peak clustering finds.

    Attributes
    ----------
    centres : (*batch, clusters) indices of the centres, the best first
    label : (*batch, n) cluster of every point: its nearest centre
    score : (*batch, n) density times distance to the nearest denser point
    """

    centres: Int[Tensor, "*batch clusters"]
    label: Int[Tensor, "*batch n"]
    score: Float[Tensor, "*batch n"]


def density_peaks(
    points: Float[Tensor, "*batch n dim"],
    n_clusters: int,
    neighbours: int,
    *,
    noise: Float[Tensor, "*batch n"] | None = None,
    distances: Literal["product", "difference"] = "product",
) -> DensityPeaks:
    """Cluster points around those that are dense and far from anything denser.

    The density of a point falls with the mean squared distance to its nearest neighbours, itself
    among them. Distances are Euclidean, divided by the root of the dimension, in float32.

    Parameters
    ----------
    neighbours : how many nearest neighbours make the density, the point itself counted
    noise : uniform noise in [0, 1) that decides between equal densities; default by order
    distances : ``product`` takes distances from inner products when there are more than 25 points,
        which is fast and leaves self-distances slightly above zero; ``difference`` never does

    Raises
    ------
    InputError
        If there are fewer points than clusters or neighbours.
    """
    n = points.shape[-2]
    if not 1 <= max(n_clusters, neighbours) <= n:
        raise InputError(
            f"{n} points do not make {n_clusters} clusters with {neighbours} neighbours"
        )
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    distance = torch.cdist(points, points, compute_mode=_MODES[distances])
    distance = distance / points.shape[-1] ** 0.5
    nearest = distance.topk(neighbours, dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    if noise is not None:
        density = density + NOISE_SCALE * noise.to(density)
    denser = density[..., None, :] > density[..., :, None]
    if noise is None:
        # Two points that are each other's nearest are equally dense; without an order between them
        # both would be centres.
        equal = density[..., None, :] == density[..., :, None]
        denser |= equal & torch.ones_like(equal).tril(-1)
    farthest = distance.amax((-2, -1))[..., None, None]
    score = distance.where(denser, farthest).amin(-1) * density
    if noise is None:
        centres = score.argsort(dim=-1, descending=True, stable=True)[..., :n_clusters]
    else:  # scores may be equal in spite of the noise; released code leaves that to topk
        centres = score.topk(n_clusters, dim=-1).indices
    to_centre = distance.gather(-1, centres[..., None, :].expand(*distance.shape[:-1], n_clusters))
    own = torch.arange(n_clusters, device=points.device).expand_as(centres)
    label = to_centre.argmin(-1).scatter(-1, centres, own)
    return DensityPeaks(centres, label, score)


def cluster_means(
    points: Float[Tensor, "*batch n dim"], label: Int[Tensor, "*batch n"], n_clusters: int
) -> Float[Tensor, "*batch clusters dim"]:
    """Return the mean of every cluster in the dtype of the points, zero for an empty one."""
    wide = points.to(torch.promote_types(points.dtype, torch.float32))
    index = label[..., None].expand_as(points)
    total = wide.new_zeros(*points.shape[:-2], n_clusters, points.shape[-1])
    total = total.scatter_add(-2, index, wide)
    count = wide.new_zeros(*label.shape[:-1], n_clusters)
    count = count.scatter_add(-1, label, torch.ones_like(label, dtype=wide.dtype))
    return (total / count.clamp_min(1)[..., None]).to(points.dtype)
