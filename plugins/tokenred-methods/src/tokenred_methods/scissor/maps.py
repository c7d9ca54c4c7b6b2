"""Components as sparse linear maps."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tokenred.kernels.sparse import sparse_map
from tokenred_methods.scissor.graph import Components


def in_a_row(parts: Sequence[Components]) -> Components:
    """Number the nodes and the components of several graphs one after the other."""
    labels, heads = [], []
    n_nodes = n_components = 0
    for part in parts:
        labels.append(torch.where(part.label >= 0, part.label + n_components, -1))
        heads.append(part.head + n_nodes)
        n_nodes, n_components = n_nodes + len(part.label), n_components + len(part.head)
    return Components(torch.cat(labels), torch.cat(heads))


def mean_map(found: Components) -> Tensor:
    """Return the sparse map from nodes to the means of their components."""
    node = (found.label >= 0).nonzero()[:, 0]
    row = found.label[node]
    share = 1 / row.bincount(minlength=len(found.head)).float()
    size = (len(found.head), len(found.label))
    return sparse_map(torch.stack([row, node]), share[row], size)


def joined_map(centres: Tensor, nearest: Int[Tensor, "nodes"]) -> Tensor:
    """Return the mean of every row of a map and of the nodes that are nearest to it."""
    centres = centres.coalesce()
    share = 1 / (1 + nearest.bincount(minlength=centres.shape[0]).float())
    node = torch.arange(len(nearest), device=nearest.device)
    index = torch.cat([centres.indices(), torch.stack([nearest, node])], 1)
    values = torch.cat([centres.values(), torch.ones_like(share[nearest])])
    return sparse_map(index, values * share[index[0]], (centres.shape[0], centres.shape[1]))


def placed_map(found: Tensor, place: Int[Tensor, "nodes"], n_places: int) -> Tensor:
    """Move the columns of a map to the places of the nodes."""
    found = found.coalesce()
    row, node = found.indices()
    return sparse_map(torch.stack([row, place[node]]), found.values(), (found.shape[0], n_places))
