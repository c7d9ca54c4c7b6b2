"""The similarity graph of tokens, and its components as a sample of nodes finds them."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenred_methods.scissor.connected import connected_components
from tokenred_methods.scissor.union_find import union_find

CHUNK = 1024
"""Rows of the similarity matrix that are in memory at once."""


@dataclass(frozen=True)
class Components:
    """Sets of similar nodes, sorted by the node that stands for each.

    Attributes
    ----------
    label : (nodes,) component of every node; -1: of none, which only the release leaves behind
    head : (components,) the member with most neighbours, the first of equals
    """

    label: Int[Tensor, "nodes"]
    head: Int[Tensor, "components"]


def sample_size(n_nodes: int, epsilon: float) -> int:
    """Return how many nodes to grow components from: ``ln(n) / epsilon^2``, at most all."""
    return min(n_nodes, math.ceil(math.log(n_nodes) / epsilon**2))


def neighbours(features: Float[Tensor, "nodes dim"], tau: float) -> Int[Tensor, "2 edges"]:
    """Return all pairs whose cosine is above ``tau``, both ways round, and every node with itself.

    They are sorted by first node, then by second.
    """
    unit = F.normalize(features, dim=-1)
    edges = []
    for start in range(0, len(unit), CHUNK):
        near = unit[start : start + CHUNK] @ unit.mT > tau
        near.diagonal(start).fill_(True)
        first, second = near.nonzero(as_tuple=True)
        edges.append(torch.stack([first + start, second]))
    return torch.cat(edges, 1)


def components(
    features: Float[Tensor, "nodes dim"],
    tau: float,
    sampled: Int[Tensor, "sampled"] | None,
    *,
    released: bool = False,
) -> Components:
    """Group nodes that chains of similar ones connect.

    Parameters
    ----------
    sampled : only edges of these nodes count, in this order for the release; None: all do
    released : see ``union_find``
    """
    edges = neighbours(features, tau)
    n = len(features)
    degree = edges[0].bincount(minlength=n)
    if released:
        label = union_find(n, edges, torch.arange(n) if sampled is None else sampled)
    else:
        if sampled is not None:
            chosen = torch.zeros(n, dtype=torch.bool, device=edges.device)
            chosen[sampled.to(edges.device)] = True
            edges = edges[:, chosen[edges[0]]]
        label = connected_components(n, edges)
    return _numbered(label, degree)


def _numbered(label: Tensor, degree: Tensor) -> Components:
    """Number the components by the member that has most neighbours."""
    n = len(label)
    member = (label >= 0).nonzero()[:, 0]
    best = degree.new_zeros(n).scatter_reduce(0, label[member], degree[member], "amax")
    leading = member[degree[member] == best[label[member]]]
    head = torch.full((n,), n, device=label.device)
    head = head.scatter_reduce(0, label[leading], leading, "amin")
    order = head.argsort(stable=True)[: int((head < n).sum())]
    number = torch.full((n + 1,), -1, device=label.device)
    number[order] = torch.arange(len(order), device=label.device)
    return Components(number[label], head[order])
