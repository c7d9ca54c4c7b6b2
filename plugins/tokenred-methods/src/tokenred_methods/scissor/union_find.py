"""Components as the release computes them, one node after the other."""

import torch
from jaxtyping import Int
from torch import Tensor


def union_find(
    n_nodes: int, edges: Int[Tensor, "2 edges"], sampled: Int[Tensor, "sampled"]
) -> Int[Tensor, "nodes"]:
    """Return for every node the root of its component, -1 for nodes that are in none.

    Sampled nodes are united with their neighbours in order: trees are joined by rank, the sampled
    node's on top of one of equal rank, and paths are halved on the way to a root. In the end only
    nodes right below a root are counted as its component; what was reached but hangs deeper is in
    none. Nodes that were not reached are components of their own.

    Parameters
    ----------
    edges : sorted by first node, then by second
    """
    neighbours = edges[1].cpu().split(edges[0].bincount(minlength=n_nodes).tolist())
    parent, rank = list(range(n_nodes)), [0] * n_nodes
    reached = [False] * n_nodes

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for node in sampled.tolist():
        for other in neighbours[node].tolist():
            reached[other] = True
            upper, lower = root(node), root(other)
            if upper == lower:
                continue
            if rank[upper] < rank[lower]:
                upper, lower = lower, upper
            parent[lower] = upper
            rank[upper] += rank[upper] == rank[lower]
    for node in sampled.tolist():
        root(node)  # what looks up the components halves paths once more
    listed = [
        top if parent[top] == top or not reached[node] else -1 for node, top in enumerate(parent)
    ]
    return torch.tensor(listed, device=edges.device)
