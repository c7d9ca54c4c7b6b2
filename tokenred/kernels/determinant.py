"""Greedy choice of the rows of a kernel whose block has the largest determinant."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def greedy_determinant(
    own: Float[Tensor, "frames tokens"],
    kernel_row: Callable[[Int[Tensor, "frames"]], Float[Tensor, "frames tokens"]],
    n_picks: int,
    *,
    floor: float | None = None,
) -> Int[Tensor, "frames picks"]:
    """Pick tokens one by one, each adding most to the determinant of the picked block.

    What a token would add is its conditional variance: its own entry of the kernel, less what the
    picks explain of it (Cholesky, one row a pick). Only rows of picked tokens are ever computed.

    Parameters
    ----------
    own : diagonal of the kernel; minus infinity where a token must not be picked
    kernel_row : the rows of a kernel that belong to one token of each frame
    floor : what a variance counts as at least when it divides; default the smallest positive number
        of its type, as rounding can take one to zero or below
    """
    floor = torch.finfo(own.dtype).tiny if floor is None else floor
    gain = own
    rows = gain.new_zeros(len(gain), n_picks, gain.shape[1])
    picks = torch.zeros(rows.shape[:2], dtype=torch.long, device=rows.device)
    frame = torch.arange(len(gain), device=rows.device)
    for step in range(n_picks):
        pick = gain.argmax(-1)
        before = rows[:, :step]
        known = (before[frame, :, pick][:, None] @ before)[:, 0]
        scale = gain[frame, pick][:, None].clamp_min(floor).sqrt()
        rows[:, step] = (kernel_row(pick) - known) / scale
        gain = gain - rows[:, step].square()
        gain[frame, pick] = -torch.inf
        picks[:, step] = pick
    return picks
