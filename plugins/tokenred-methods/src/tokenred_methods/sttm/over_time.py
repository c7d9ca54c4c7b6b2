"""Which leaves of consecutive frames are similar, and which then stands for which."""

import torch
from jaxtyping import Int
from torch import Tensor

from tokenred_methods.sttm.leaves import Leaves, similarity


def similar_pairs(leaves: Leaves, threshold: float, head_dim: int | None) -> Int[Tensor, "2 links"]:
    """Return the pairs (earlier, later) of similar leaves that overlap in consecutive frames.

    Leaves that overlap are nested, as all trees divide the same cells.
    """
    pairs = torch.stack([leaves.of_token[:-1].flatten(), leaves.of_token[1:].flatten()])
    pairs = pairs[:, (pairs >= 0).all(0)].unique(dim=1)
    alike = similarity(leaves.features[pairs[0]], leaves.features[pairs[1]], head_dim)
    return pairs[:, alike >= threshold]


def first_ancestor(n_leaves: int, links: Int[Tensor, "2 links"]) -> Int[Tensor, "leaves"]:
    """Return for each leaf where it ends up when everyone joins a leaf of the frame before.

    A leaf joins the first of those that it is linked to, and goes where that one goes.

    Parameters
    ----------
    links : pairs (earlier, later)
    """
    label = torch.arange(n_leaves, device=links.device)
    label = label.scatter_reduce(0, links[1], links[0], "amin")
    while True:
        farther = label[label]
        if torch.equal(farther, label):
            return label
        label = farther


def released_union(n_leaves: int, links: Int[Tensor, "2 links"]) -> Int[Tensor, "leaves"]:
    """Return what the release makes of the same links.

    Every leaf takes the smallest label among its own and its neighbours', earlier or later, then
    the label of that label; this is repeated until the label of each label is the label itself.
    Where no chain is longer than two links that is ``first_ancestor``; if one is, somewhere in the
    video, there are further rounds, in which leaves also join others of their own frame.
    """
    label = torch.arange(n_leaves, device=links.device)
    left, right = torch.cat([links, links.flip(0)], dim=1)
    while True:
        label = label.scatter_reduce(0, left, label[right], "amin")
        label = label[label]
        if torch.equal(label[label], label):
            return label
