"""Pairs through which nothing may go."""

from torch import Tensor


def closed_pairs(anchor_mass: Tensor, forbidden: Tensor | None) -> Tensor:
    """Return a mask, for all sources or for each: the anchor is padding, or the pair forbidden."""
    padding = (anchor_mass <= 0)[..., None, :]
    return padding if forbidden is None else padding | forbidden
