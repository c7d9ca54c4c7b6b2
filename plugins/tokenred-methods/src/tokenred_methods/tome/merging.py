"""What to do with a matching: merge, keep track, and undo."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred_methods.tome.matching import Matching


def merge(
    values: Float[Tensor, "batch tokens dim"],
    matching: Matching,
    how: Literal["sum", "mean", "amax"] = "sum",
) -> Float[Tensor, "batch rows dim"]:
    """Return the merged sequence; the token that others merge into counts like them."""
    rows = matching.target.where(matching.target >= 0, matching.rows)  # one row for what vanishes
    index = rows[..., None].expand_as(values)
    out = values.new_zeros(len(values), matching.rows + 1, values.shape[-1])
    return out.scatter_reduce(1, index, values, how, include_self=False)[:, :-1]


def merge_by_size(
    values: Float[Tensor, "batch tokens dim"],
    matching: Matching,
    size: Float[Tensor, "batch tokens 1"] | None = None,
) -> tuple[Float[Tensor, "batch rows dim"], Float[Tensor, "batch rows 1"]]:
    """Return averages weighted by how many patches every token stands for, and the new numbers."""
    if size is None:
        size = torch.ones_like(values[..., :1])
    total = merge(size, matching)
    return merge(values * size, matching) / total, total


def merge_source(
    source: Float[Tensor, "batch tokens patches"] | None, matching: Matching
) -> Float[Tensor, "batch rows patches"]:
    """Return which patches each row is made of, as zeros and ones; None stands for the identity."""
    if source is None:
        batch, n = matching.target.shape
        source = torch.eye(n, device=matching.target.device).expand(batch, n, n)
    return merge(source, matching, "amax")


def unmerge(
    merged: Float[Tensor, "batch rows dim"], matching: Matching, *, released: bool = False
) -> Float[Tensor, "batch tokens dim"]:
    """Give every token the row that it went to; zero where it vanished.

    ``released`` takes the rows as if a distillation token had not moved to the front, as upstream
    does, so that tokens get rows of others.
    """
    target = matching.plain_target if released else matching.target
    index = target.clamp_min(0)[..., None].expand(*target.shape, merged.shape[-1])
    return merged.gather(1, index) * (target >= 0)[..., None]
