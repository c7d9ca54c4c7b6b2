"""As many anchors as there are outliers among the attention values."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    attention_cue,
    importance_of,
    top_index,
)


class OutliersConfig(StrategyConfig):
    """Settings of the outliers selector."""

    layer: LayerSpec = Field(-1, description="layer of the importance, or the pooling head")
    query: Query = Field("any", description=QUERY_TEXT)
    fence: float = Field(
        1.5,
        ge=0,
        le=1e6,
        description="how many interquartile ranges above the third quartile outliers lie",
    )
    scope: Literal["frame", "video"] = Field(
        "frame",
        description="'frame' counts the outliers of each frame; 'video' those of all frames "
        "together, and every frame keeps the same share, as released",
    )
    released: bool = Field(
        False,
        description="leave a frame without outliers empty, and take their share in floating point, "
        "which can lose a token",
    )


class OutliersSelector(AnchorSelector):
    """Select the tokens whose attention lies far above the third quartile.

    The number follows from the frame: from one, the strongest token where nothing is an outlier, to
    a quarter of the tokens. ``n_anchors`` is the most that may be taken; of more outliers the
    strongest stay.

    Shapes
    ------
    cue ``salience@LAYER`` (``attention@``, ``class-attention@``) : (frames, tokens)
    returns : (frames, outliers) indices, best first, -1 behind those of a frame with fewer

    Source
    ------
    LLaVA-PruMerge, arXiv 2403.15388; 42Shawn/LLaVA-PruMerge@097c041
    ``CLIPVisionTower.outlier_dectection``. Licence of source: Apache-2.0 (written from our
    description).
    Differs: by default every frame has its own limit and keeps all its outliers, or one token.
    ``scope: video`` with ``released`` is the release: one share for the batch, maybe none, and 1 of
    49 tokens becomes 0.
    """

    config: OutliersConfig
    adaptive = True

    @property
    def looks_across_frames(self) -> bool:
        """Whether the limit depends on all frames."""
        return self.config.scope == "video"

    @property
    def needs(self) -> frozenset[str]:
        """The attention of one layer."""
        return frozenset({attention_cue(self.config.layer, self.config.query)})

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the outliers of every frame."""
        (cue,) = self.needs
        importance = importance_of(tokens, cue)
        counts = [min(count, n_anchors) for count in self._counts(importance, tokens.keep)]
        index = top_index(importance, max(counts))
        wanted = torch.tensor(counts, device=index.device)[:, None]
        return index.masked_fill(torch.arange(index.shape[1], device=index.device) >= wanted, -1)

    def _counts(self, importance: Tensor, keep: Tensor) -> list[int]:
        """Return how many tokens of each frame are outliers."""
        n_open = keep.sum(-1).tolist()
        if self.config.scope == "frame":
            above = importance > outlier_limit(importance, self.config.fence)
            found = above.sum(-1).tolist()
            return [self._part(n, count, n) for n, count in zip(n_open, found)]
        limit = outlier_limit(importance.reshape(1, -1), self.config.fence)
        total = int((importance > limit).sum())
        return [self._part(n, total, sum(n_open)) for n in n_open]

    def _part(self, n: int, count: int, of: int) -> int:
        if self.config.released:
            return int(n * (count / max(of, 1)))
        return max(n * count // max(of, 1), min(n, 1))


def outlier_limit(
    importance: Float[Tensor, "rows values"], fence: float
) -> Float[Tensor, "rows 1"]:
    """Return ``Q3 + fence * (Q3 - Q1)`` of each row; entries of minus infinity do not count."""
    known = importance.masked_fill(importance == -torch.inf, torch.nan)
    at = torch.tensor([0.25, 0.75], device=known.device, dtype=known.dtype)
    low, high = torch.nanquantile(known, at, dim=-1, keepdim=True)
    return high + fence * (high - low)
