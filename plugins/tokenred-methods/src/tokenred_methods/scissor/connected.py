"""Connected components of a graph, without a loop over its nodes."""

import torch
from jaxtyping import Int
from torch import Tensor


def connected_components(n_nodes: int, edges: Int[Tensor, "2 edges"]) -> Int[Tensor, "nodes"]:
    """Return for every node the smallest node of its component; edges have no direction.

    Every node repeatedly takes the smallest label among its neighbours, then the label of that
    label, until nothing changes. A chain of n nodes takes about log n rounds.
    """
    label = torch.arange(n_nodes, device=edges.device)
    left, right = torch.cat([edges, edges.flip(0)], dim=1)
    while True:
        lower = label.scatter_reduce(0, label[left], label[right], "amin")  # roots join first
        lower = lower.scatter_reduce(0, left, lower[right], "amin")
        lower = lower[lower]
        if torch.equal(lower, label):
            return label
        label = lower
