"""Windows of a frame whose tokens are alike become one token."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import InputError
from tokenred.interfaces import TokenGrouper
from tokenred.kernels.sparse import sparse_map
from tokenred.types import Grouping, VisualTokens

Side = Annotated[int, Field(ge=1, le=64)]


class AlikeWindowsConfig(StrategyConfig):
    """Settings of windows that merge."""

    window: tuple[Side, Side] = Field((3, 3), description="rows and columns of a window")
    threshold: float = Field(
        0.8,
        ge=-2,
        le=2,
        description="mean cosine of the pairs of a window, from which it becomes one token",
    )
    same_number: bool = Field(
        False,
        description="every frame merges as many windows as the frame with the fewest, its most "
        "similar ones; as released",
    )
    border: Literal["keep", "refuse"] = Field(
        "keep",
        description="what does not fill a window at the lower and right border: it stays as it is, "
        "or such a grid is an error, as released",
    )


class AlikeWindowsGrouper(TokenGrouper):
    """Average windows of a frame whose tokens are alike; other tokens go on as they are.

    Windows do not overlap. A merged window stands at the place of its last token. A window in which
    a token has gone already stays.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : groups, frame by frame: windows by falling
        similarity, then what was not merged in raster order

    Raises
    ------
    InputError
        If windows do not fill the grid and ``border`` is ``refuse``.

    Source
    ------
    MustDrop, arXiv 2411.10803; liuting20/MustDrop@909afa5 ``conditional_pooling``, ``merge_wavg``.
    Licence of source: Apache-2.0 by its headers (written from our description).
    Differs: acts behind the tower, not behind its first layer; the group stage puts the tokens back
    in raster order.
    """

    config: AlikeWindowsConfig

    def group(self, tokens: VisualTokens, *, generator: torch.Generator) -> Grouping:
        """Return merged windows and all other tokens."""
        windows = self._windows(tokens)
        similarity = _similarity(tokens.features[:, windows])
        whole = tokens.keep[:, windows].all(-1)
        alike = whole & (similarity >= self.config.threshold)
        counts = alike.sum(1)
        if self.config.same_number:
            counts = counts.amin().expand_as(counts)
        score = similarity.masked_fill(~alike, -torch.inf)
        order = score.argsort(dim=1, descending=True, stable=True)
        n = tokens.keep.shape[1]
        members, sizes = [], []
        for frame, count in enumerate(counts.tolist()):
            merged = windows[order[frame, :count]]
            left = tokens.keep[frame].index_fill(0, merged.flatten(), False).nonzero()
            members += [frame * n + merged.flatten(), frame * n + left[:, 0]]
            sizes += [counts.new_full((count,), windows.shape[1]), counts.new_ones(len(left))]
        return _grouping(torch.cat(members), torch.cat(sizes), tokens.keep.numel())

    def _windows(self, tokens: VisualTokens) -> Int[Tensor, "windows tokens"]:
        """Return the places of each whole window, in raster order."""
        (rows, columns), (high, wide) = tokens.grid, self.config.window
        if self.config.border == "refuse" and (rows % high or columns % wide):
            raise InputError(
                f"windows of {high}x{wide} tokens do not fill a grid of {rows}x{columns}; use "
                "border: keep"
            )
        place = torch.arange(rows * columns, device=tokens.features.device).view(rows, columns)
        down, across = rows // high, columns // wide
        cut = place[: down * high, : across * wide].reshape(down, high, across, wide)
        return cut.transpose(1, 2).reshape(down * across, high * wide)


def _similarity(
    features: Float[Tensor, "frames windows tokens dim"],
) -> Float[Tensor, "frames windows"]:
    """Return the mean cosine of the pairs of different tokens; 1 for windows of one token."""
    unit = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
    size = features.shape[2]
    if size == 1:
        return unit.new_ones(unit.shape[:2])
    cosine = unit @ unit.mT
    pairs = cosine.sum((2, 3)) - cosine.diagonal(dim1=2, dim2=3).sum(-1)
    return pairs / (size * (size - 1))


def _grouping(
    members: Int[Tensor, "members"], sizes: Int[Tensor, "groups"], n_tokens: int
) -> Grouping:
    """Return groups that follow one another as means, each at its last token."""
    row = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    index, weights = torch.stack([row, members]), 1 / sizes[row].float()
    head = members[sizes.cumsum(0) - 1]
    return Grouping(head, sparse_map(index, weights, (len(sizes), n_tokens)))
