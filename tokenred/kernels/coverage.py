"""Greedy coverage: columns of a matrix that together come near the maximum of every row."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.kernels.similarity import pieces


def most_covering(
    matrix: Float[Tensor, "rows tokens"],
    n_picks: int,
    rate: Callable[[Float[Tensor, "tokens"]], Float[Tensor, "tokens"]] = lambda gain: gain,
) -> Int[Tensor, "picks"]:
    """Pick tokens one by one, each adding most to how far all rows are covered.

    A row is covered as far as the largest entry that it has in a picked column, and at least to 0.
    Only the rows that a pick covers better than those before it change what others would add.

    Parameters
    ----------
    rate : makes scores, of which the largest is picked, of what every token would add (float64)
    """
    covered = matrix.new_zeros(len(matrix))
    gain = matrix.clamp_min(0).sum(0, dtype=torch.float64)
    out = torch.zeros_like(gain)
    picks = torch.zeros(n_picks, dtype=torch.long, device=matrix.device)
    for step in range(n_picks):
        picks[step] = pick = (rate(gain) + out).argmax()
        out[pick] = -torch.inf
        better = matrix[:, pick].maximum(covered)
        gain = gain - _lost(matrix, covered, better)
        covered = better
    return picks


def _lost(
    matrix: Float[Tensor, "rows tokens"],
    covered: Float[Tensor, "rows"],
    better: Float[Tensor, "rows"],
) -> Float[Tensor, "tokens"]:
    """Return by how much less every token would add once the rows are covered better."""
    changed = (better > covered).nonzero()[:, 0]
    lost = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for piece in pieces(len(changed), matrix.shape[1]):
        some = changed[piece]
        old, step = covered[some, None], (better - covered)[some, None]
        lost += (matrix[some] - old).clamp_min_(0).minimum(step).sum(0, dtype=torch.float64)
    return lost
