"""Local anchors under a cap for each window, then global ones: VScan for towers of any grid."""

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from tokenred import VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    TwoLayersConfig,
    Windows,
    importance_of,
    top_index,
)
from tokenred.strategies.selectors.windows import window_rank


class WindowCapConfig(TwoLayersConfig):
    """Settings of the window-cap selector."""

    window: tuple[Windows, Windows] = Field(
        (4, 4), description="rows and columns of tokens in a window"
    )
    shallow_layer: LayerSpec = Field(0.22, description="layer of the local importance")
    deep_layer: LayerSpec = Field(-1, description="layer of the global importance")
    query: Query = Field("any", description=QUERY_TEXT)
    global_ratio: float = Field(0.5, ge=0, le=1, description="share of the anchors chosen globally")


class WindowCapSelector(AnchorSelector):
    """Select the most attended tokens, at first no more from a window than its even share.

    The local anchors are the most attended tokens of the frame at a shallow layer, where a window
    gives ``ceil(local anchors / windows)`` at most; the others are the most attended ones at a deep
    layer, local anchors excluded. Rows and columns beyond the last full window belong to it. In
    contrast to ``local-global`` a dull window may give none.

    Shapes
    ------
    cues ``salience@LAYER`` (``attention@``, ``class-attention@``) : (frames, tokens)
    returns : (frames, n_anchors), local anchors first, each kind most attended first

    Source
    ------
    VScan, arXiv 2505.22654; Tencent/SelfEvolvingAgent@a82450e ``window_selection`` (its form for
    Qwen2.5-VL). Licence of source: MIT (written from our description).
    Differs: where the windows cannot supply enough, their next best tokens follow, round by round;
    the release fails. Grids smaller than a window are one window.
    """

    config: WindowCapConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention of both layers."""
        return frozenset(self.config.cues)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices."""
        shallow, deep = (importance_of(tokens, cue) for cue in self.config.cues)
        n_local = int(n_anchors * (1 - self.config.global_ratio))
        ids, n_windows = _window_of(tokens.grid, self.config.window)
        cap = max(1, -(-n_local // n_windows))
        round_ = window_rank(shallow, ids) // cap
        by_attention = shallow.argsort(dim=-1, descending=True, stable=True)
        by_round = round_.gather(-1, by_attention).argsort(dim=-1, stable=True)
        local = by_attention.gather(-1, by_round)[:, :n_local]
        others = top_index(deep.scatter(-1, local, -torch.inf), n_anchors - n_local)
        return torch.cat([local, others], dim=-1)


def _window_of(grid: tuple[int, int], window: tuple[int, int]) -> tuple[Int[Tensor, "tokens"], int]:
    """Number every token's window in raster order; return how many there are as well."""
    counts = [max(1, side // length) for side, length in zip(grid, window)]
    row, column = (
        (torch.arange(side) // length).clamp_max(count - 1)
        for side, length, count in zip(grid, window, counts)
    )
    return (row[:, None] * counts[1] + column).flatten(), counts[0] * counts[1]
