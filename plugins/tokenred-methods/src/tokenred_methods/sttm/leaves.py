"""The leaves of the quadtrees of a video: which cells of the pyramid stay whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenred_methods.sttm.pyramid import Level


@dataclass(frozen=True)
class Leaves:
    """Cells that stay whole, sorted by the place of their first live token.

    Attributes
    ----------
    features : (leaves, dim) their averages
    of_token : (frames, tokens) leaf of every token; -1 where no leaf is
    share : (frames, tokens) weight of every token in its leaf; 0 for dropped ones
    first : (leaves,) flat place of that token, rising
    """

    features: Float[Tensor, "leaves dim"]
    of_token: Int[Tensor, "frames tokens"]
    share: Float[Tensor, "frames tokens"]
    first: Int[Tensor, "leaves"]


def similarity(
    left: Float[Tensor, "*batch dim"], right: Float[Tensor, "*batch dim"], head_dim: int | None
) -> Float[Tensor, "*batch"]:
    """Return the cosine, as the mean over heads if their width is given."""
    if head_dim is None:
        head_dim = left.shape[-1]
    left, right = (side.unflatten(-1, (-1, head_dim)) for side in (left, right))
    return F.cosine_similarity(left, right, dim=-1, eps=1e-8).mean(-1)


def find_leaves(
    levels: Sequence[Level], threshold: float, *, head_dim: int | None, released: bool
) -> Leaves:
    """Descend from ``levels[0]``; a cell becomes a leaf if all of its quarters resemble it.

    ``released`` compares with the first cell of the level in place of each missing quarter.
    """
    frames, n_tokens = levels[0].share.shape
    visited = levels[0].alive
    features, code = [], torch.full((frames, n_tokens), -1, device=visited.device)
    share = torch.zeros_like(levels[0].share)
    n_leaves = 0
    for level, finer in zip(levels, [*levels[1:], None]):
        whole = visited
        if finer is not None:
            assert level.children is not None
            whole = visited & _whole(level, finer, threshold, head_dim, released)
            divided = (visited & ~whole)[:, :, None] & (level.children >= 0)
            spot = level.children.clamp_min(0).expand(frames, -1, -1)
            visited = torch.zeros_like(finer.alive, dtype=torch.long)
            visited = visited.scatter_add(1, spot.flatten(1), divided.flatten(1).long()) > 0
            visited &= finer.alive
        number = torch.full(whole.shape, -1, device=whole.device)
        count = int(whole.sum())
        number[whole] = n_leaves + torch.arange(count, device=whole.device)
        here = number[:, level.cell]
        code = torch.where(here >= 0, here, code)
        share = torch.where(here >= 0, level.share, share)
        features.append(level.features[whole])
        n_leaves += count
    return _sorted(torch.cat(features), code, share)


def _whole(
    level: Level, finer: Level, threshold: float, head_dim: int | None, released: bool
) -> Tensor:
    assert level.children is not None
    slot = level.children.clamp_min(0)
    quarters = finer.features[:, slot]  # (frames, cells, 4, dim)
    alike = similarity(quarters, level.features[:, :, None].expand_as(quarters), head_dim)
    asked = finer.alive[:, slot] & (level.children >= 0)
    if released:
        asked = asked | (level.children < 0)
    return ((alike >= threshold) | ~asked).all(-1)


def _sorted(features: Tensor, code: Tensor, share: Tensor) -> Leaves:
    """Number the leaves by the place of their first live token."""
    live = ((code >= 0) & (share > 0)).flatten().nonzero()[:, 0]
    first = torch.full((len(features),), code.numel(), device=code.device)
    first = first.scatter_reduce(0, code.flatten()[live], live, "amin")
    order = first.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=code.device)
    of_token = torch.where(code >= 0, rank[code.clamp_min(0)], -1)
    return Leaves(features[order], of_token, share, first[order])
