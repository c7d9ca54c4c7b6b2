"""Per-window top-k on any grid, without a loop over frames or windows."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def window_ids(grid: tuple[int, int], windows: tuple[int, int]) -> Int[Tensor, "tokens"]:
    """Number every token's window in raster order; remainders are spread over the windows."""
    rows = torch.arange(grid[0]) * windows[0] // grid[0]
    columns = torch.arange(grid[1]) * windows[1] // grid[1]
    return (rows[:, None] * windows[1] + columns[None, :]).reshape(-1)


def window_rank(
    importance: Float[Tensor, "frames tokens"], ids: Int[Tensor, "tokens"]
) -> Int[Tensor, "frames tokens"]:
    """Return each token's rank by importance inside its window (0 = most important)."""
    ids = ids.to(importance.device)
    by_importance = importance.argsort(dim=-1, descending=True, stable=True)
    by_window = ids[by_importance].argsort(dim=-1, stable=True)
    order = torch.gather(by_importance, -1, by_window)
    starts = torch.cat([ids.new_zeros(1), ids.bincount().cumsum(0)[:-1]])
    place = torch.arange(ids.numel(), device=ids.device) - starts[ids[order]]
    rank = torch.empty_like(place).scatter_(-1, order, place)
    return rank.masked_fill(importance == -torch.inf, ids.numel())  # dropped before: never chosen


def window_mask(
    importance: Float[Tensor, "frames tokens"],
    grid: tuple[int, int],
    windows: tuple[int, int],
    budget: int,
    *,
    exact: bool,
) -> Bool[Tensor, "frames tokens"]:
    """Mark the top tokens of every window, ``budget`` in all.

    With ``exact`` a budget that the number of windows does not divide is topped up by the most
    important of the next-ranked tokens; without it the remainder is lost, as AOT's release has it.
    """
    ids = window_ids(grid, windows)
    rank = window_rank(importance, ids)
    quota = budget // (windows[0] * windows[1])
    mask = rank < quota
    if not exact:
        return mask
    # Rank first, importance second: the leftover goes round by round to the best next tokens.
    best = importance.argsort(dim=-1, descending=True, stable=True)
    by_round = torch.gather(rank, -1, best).argsort(dim=-1, stable=True)
    order = torch.gather(best, -1, by_round)
    return torch.zeros_like(mask).scatter_(-1, order[:, :budget], True)
