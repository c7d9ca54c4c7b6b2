"""More anchors for the tiles of an image to which its overview pays attention: HiRED."""

import math

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import InputError, StrategyConfig, VisualTokens
from tokenred.interfaces import BudgetAllocator
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    Windows,
    attention_cue,
    importance_of,
    top_index,
)
from tokenred.strategies.selectors.windows import window_ids


class TileAttentionConfig(StrategyConfig):
    """Settings of the tile-attention allocator."""

    alpha: float = Field(0.5, ge=0, le=1, description="share of the anchors for the overview")
    layer: LayerSpec = Field(0, description="(early) layer of the overview's attention")
    query: Query = Field("any", description=QUERY_TEXT)
    tiles: tuple[Windows, Windows] | None = Field(
        None, description="rows and columns of tiles; null: as square as their number allows"
    )
    released: bool = Field(
        False,
        description="count marks in runs of the raster order instead of the tiles' regions, and "
        "round everything down",
    )


class TileAttentionAllocator(BudgetAllocator):
    """Give the overview a share of the anchors and divide the rest by where it looks.

    The first frame is an image as a whole, the others are its tiles, row by row. The most attended
    ``1 - alpha`` of the overview's tokens are marked; a tile gets as large a part of the rest as
    its region holds of the marks.

    Shapes
    ------
    cue ``salience@LAYER`` (``attention@``, ``class-attention@``) : (frames, tokens)
    returns : (frames,) float32

    Raises
    ------
    InputError
        If there is not one frame for each of ``tiles`` and one more.

    Source
    ------
    HiRED, arXiv 2408.10945; hasanar1f/HiRED@502d6dd ``HiRED_sub_img_budgets``,
    ``HiRED_token_selection``. Licence of source: MIT (written from our description).
    Differs: a tile is judged by its own region of the overview, and nothing is lost by rounding;
    the release judges it by a band of rows. Even with ``released`` the overview keeps one token at
    least, and runs need not be equally long.
    """

    config: TileAttentionConfig
    rounding = "floor"

    @property
    def needs(self) -> frozenset[str]:
        """The attention in the overview."""
        return frozenset({attention_cue(self.config.layer, self.config.query)})

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Float[Tensor, "frames"]:
        """Return how many anchors overview and tiles should get."""
        frames, size = tokens.keep.shape
        share = torch.ones(frames - 1, device=tokens.keep.device)
        total, alpha = round(n_anchors * frames, 6), self.config.alpha
        if frames > 1:
            marks = self._marks(tokens)
            share = marks if bool(marks.any()) else share
        if self.config.released:
            total = int(total)
            overview = max(1, min(int(total * alpha), size))
            rest = max(0, min(total - overview, (frames - 1) * size))
            parts = torch.trunc(share / share.sum() * rest).clamp_max(size)
        else:
            overview = total * alpha if frames > 1 else total
            parts = share / share.sum() * (total - overview)
        return torch.cat([share.new_tensor([overview]), parts])

    def _marks(self, tokens: VisualTokens) -> Float[Tensor, "tiles"]:
        """Return how many of the marks fall on each tile."""
        (cue,) = self.needs
        n_marks = int(int(tokens.keep[0].sum()) * (1 - self.config.alpha))
        marked = top_index(importance_of(tokens, cue)[:1], n_marks)[0]
        n_tiles = len(tokens.keep) - 1
        return self._tile_of(tokens, n_tiles)[marked].bincount(minlength=n_tiles).float()

    def _tile_of(self, tokens: VisualTokens, n_tiles: int) -> Int[Tensor, "tokens"]:
        if self.config.released:
            size = tokens.keep.shape[1]
            return torch.arange(size, device=tokens.keep.device) * n_tiles // size
        rows = next(n for n in range(math.isqrt(n_tiles), 0, -1) if n_tiles % n == 0)
        tiling = self.config.tiles or (rows, n_tiles // rows)
        if tiling[0] * tiling[1] != n_tiles:
            raise InputError(
                f"{tiling[0]}x{tiling[1]} tiles and their overview are "
                f"{tiling[0] * tiling[1] + 1} frames, got {n_tiles + 1}"
            )
        return window_ids(tokens.grid, tiling).to(tokens.keep.device)
