"""Anchors of a middle layer with their neighbours, and the best of a deep layer beside them."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import InputError, StrategyConfig, VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    attention_cue,
    importance_of,
    top_index,
)

STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Left, right, above, below, as rows and columns."""


class WithNeighboursConfig(StrategyConfig):
    """Settings of the with-neighbours selector."""

    middle_layer: LayerSpec = Field(
        0.334, description="layer whose best tokens come with neighbours"
    )
    deep_layer: LayerSpec = Field("features", description="layer that fills up the number")
    query: Query = Field("tokens", description=QUERY_TEXT)
    alpha: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the anchors that come with their four neighbours, these counted",
    )
    edges: Literal["clip", "wrap"] = Field(
        "clip", description="'wrap': neighbours go on in the next row, as released"
    )
    exclude: Literal["mask", "subtract"] = Field(
        "mask",
        description="'subtract' takes the mean from what is chosen already, so that sinks are "
        "chosen twice and the number falls short, as released for Qwen",
    )
    too_many: Literal["trim", "error"] = Field(
        "trim", description="where anchors and neighbours exceed the number: 'error' as released"
    )


class WithNeighboursSelector(AnchorSelector):
    """Select the best tokens of a middle layer with their neighbours, and the best of a deep layer.

    Of ``n_anchors`` a fifth of ``alpha`` is chosen at the middle layer, each with the tokens left
    and right of it, above and below; the deep layer fills up with its best other tokens.

    Shapes
    ------
    cues ``attention@LAYER`` : (frames, tokens)      returns : (frames, tokens) bool mask

    Raises
    ------
    InputError
        With ``too_many: error``, if anchors and neighbours are more than ``n_anchors``.

    Source
    ------
    HiPrune, arXiv 2508.00553; Danielement321/HiPrune@6e83a12. Licence of source: MIT (written from
    our description).
    Differs: neighbours end at the edge of the grid, nothing is chosen twice, and any number can be
    had; ``edges``, ``exclude`` and ``too_many`` bring the releases back.
    """

    config: WithNeighboursConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention of both layers."""
        return frozenset(self._cues)

    @property
    def adaptive(self) -> bool:
        """Whether the number may fall short."""
        return self.config.exclude == "subtract"

    @property
    def _cues(self) -> tuple[str, str]:
        config = self.config
        middle = attention_cue(config.middle_layer, config.query)
        return middle, attention_cue(config.deep_layer, config.query)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return a mask of the anchors, their neighbours and the others."""
        middle, deep = (importance_of(tokens, cue) for cue in self._cues)
        first = self._with_neighbours(tokens, middle, n_anchors)
        left = n_anchors - first.sum(-1, keepdim=True)
        if self.config.exclude == "mask":
            deep = deep.masked_fill(first, -torch.inf)
        else:
            known = deep.where(tokens.keep, 0.0)
            mean = known.sum(-1, keepdim=True) / tokens.keep.sum(-1, keepdim=True).clamp_min(1)
            deep = deep - first * mean
        order = deep.argsort(dim=-1, descending=True, stable=True)
        place = torch.arange(deep.shape[1], device=deep.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(-1, order, place)
        return (first | (rank < left)) & tokens.keep

    def _with_neighbours(
        self, tokens: VisualTokens, middle: Float[Tensor, "frames tokens"], n_anchors: int
    ) -> Bool[Tensor, "frames tokens"]:
        """Return the anchors of the middle layer and their neighbours."""
        best = top_index(middle, round(n_anchors * self.config.alpha / 5))  # halves to even
        listed = torch.cat([best, self._beside(best, tokens.grid).flatten(1)], dim=-1)
        n = tokens.keep.shape[1]
        place = torch.arange(listed.shape[1], device=listed.device).expand_as(listed)
        turn = torch.full_like(tokens.keep, listed.shape[1], dtype=torch.long)
        turn = turn.scatter_reduce(-1, listed, place, "amin")  # when each is first named
        named = (turn < listed.shape[1]) & tokens.keep
        if int(named.sum(-1).max()) <= n_anchors:
            return named
        if self.config.too_many == "error":
            raise InputError(
                f"{int(named.sum(-1).max())} anchors and neighbours exceed the {n_anchors} tokens "
                "of a frame"
            )
        order = turn.masked_fill(~named, n + listed.shape[1]).argsort(dim=-1, stable=True)
        return named & torch.zeros_like(named).scatter(-1, order[:, :n_anchors], True)

    def _beside(
        self, best: Int[Tensor, "frames anchors"], grid: tuple[int, int]
    ) -> Int[Tensor, "frames anchors 4"]:
        """Return the neighbours of some tokens; over an edge that clips, the token itself."""
        rows, columns = grid
        steps = torch.tensor(STEPS, device=best.device)
        if self.config.edges == "wrap":
            flat = best[..., None] + steps @ steps.new_tensor([columns, 1])
            return flat.clamp(0, rows * columns - 1)
        row = (best // columns)[..., None] + steps[:, 0]
        column = (best % columns)[..., None] + steps[:, 1]
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return (row * columns + column).where(inside, best[..., None])
