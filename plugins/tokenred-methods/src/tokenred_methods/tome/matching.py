"""Bipartite soft matching as tensor functions, for sequences with or without special tokens.

For people who merge inside a vision tower, block by block. The parts that run in a pipeline share
``best_partner`` with it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Matching:
    """Where every token of a sequence goes.

    Attributes
    ----------
    target : (batch, tokens) row of the merged sequence; -1: the token vanishes
    rows : number of rows
    plain_target : the same for rows in the order "unmerged even tokens, odd tokens", which differs
        from the released order only with a distillation token
    """

    target: Int[Tensor, "batch tokens"]
    rows: int
    plain_target: Int[Tensor, "batch tokens"]


def best_partner(
    metric: Float[Tensor, "batch tokens dim"],
    sources: Bool[Tensor, "batch tokens"],
    partners: Bool[Tensor, "batch tokens"],
) -> tuple[Float[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """Return for every source its largest cosine with a partner, and which one that is.

    The first of equals wins. The cosine is -inf for tokens that are no source, and where there is
    no partner. Computed in float32 (float64 stays).
    """
    unit = F.normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1)
    score = (unit @ unit.mT).masked_fill(~partners[..., None, :], -torch.inf)
    best, place = score.max(-1)
    return best.masked_fill(~sources, -torch.inf), place


def match(
    metric: Float[Tensor, "batch tokens dim"],
    r: int,
    *,
    class_token: bool = False,
    distill_token: bool = False,
) -> Matching:
    """Merge the ``r`` even tokens with the most similar odd partner into that partner.

    ``r`` is lowered to half of the tokens that are not special. The class token (0) never merges,
    and nothing merges into the distillation token (1). What is left stands in the released order:
    unmerged even tokens, the most similar first (with a class token in their old order), then the
    odd ones; with a distillation token both special tokens are in front. ``r = 0`` changes nothing.
    """
    batch, n, _ = metric.shape
    r = min(r, (n - class_token - distill_token) // 2)
    place = torch.arange(n, device=metric.device).expand(batch, n)
    if r <= 0:
        return Matching(place, n, place)
    even = place % 2 == 0
    odd = ~even
    if distill_token:
        odd = odd & (place != 1)
    score, partner = best_partner(metric, even & (place != 0) if class_token else even, odd)
    by_score = 2 * score[:, ::2].argsort(dim=-1, descending=True, stable=True)
    gone, stay = by_score[:, :r], by_score[:, r:]
    if class_token:
        stay = stay.sort(dim=-1).values
    order = torch.cat([stay, place[:, 1::2]], 1)  # old place of every row
    plain = _inverse(order, n)
    plain = plain.scatter(1, gone, plain.gather(1, partner.gather(1, gone)))
    if not distill_token:
        return Matching(plain, n - r, plain)
    special = torch.tensor([0, stay.shape[1]], device=metric.device)
    others = torch.arange(n - r, device=metric.device)
    front = torch.cat([special, others[~torch.isin(others, special)]])
    return Matching(_inverse(front[None], n - r)[0][plain], n - r, plain)


def match_every(metric: Float[Tensor, "batch tokens dim"], k: int) -> Matching:
    """Merge every token into the most similar of tokens k-1, 2k-1, ...; a remainder vanishes."""
    batch, n, _ = metric.shape
    rows = n // k
    place = torch.arange(n, device=metric.device).expand(batch, n)
    whole = place < rows * k
    host = whole & (place % k == k - 1)
    _, partner = best_partner(metric, whole, host)
    target = torch.where(host, place, partner) // k
    target = target.masked_fill(~whole, -1)
    return Matching(target, rows, target)


def _inverse(order: Int[Tensor, "batch rows"], n: int) -> Int[Tensor, "batch n"]:
    rows = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return order.new_zeros(len(order), n).scatter(1, order, rows)
