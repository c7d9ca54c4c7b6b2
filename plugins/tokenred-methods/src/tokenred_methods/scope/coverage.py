"""Anchors that cover the tokens of their frame, weighted with how much they matter."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.similarity import pieces
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    attention_cue,
    importance_of,
)
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, unit_vectors


class CoverageConfig(StrategyConfig):
    """Settings of the coverage selector."""

    of: TokenCue = Field("tower", description=OF_TEXT)
    layer: LayerSpec | None = Field(
        "features", description="layer of the saliency; null: all tokens are equally salient"
    )
    query: Query = Field("any", description=QUERY_TEXT)
    alpha: float = Field(1.0, ge=0, le=100, description="power of the saliency")
    combine: Literal["product", "sum"] = Field(
        "product", description="how the gain in coverage and the saliency make one score"
    )


class CoverageSelector(AnchorSelector):
    """Pick tokens one by one, each with the largest gain in coverage, weighted with its saliency.

    A token is covered as far as its largest cosine to a pick, and by nothing at first: cosines
    below zero cover nothing. The gain of a token is how much better all tokens would be covered.

    Shapes
    ------
    ``of`` : (frames, tokens, width), cue ``salience@LAYER`` : (frames, tokens)      returns :
    (frames, n_anchors), in the order of picking

    Source
    ------
    SCOPE, arXiv 2510.24214; kinredon/SCOPE@6bf7306. Licence of source: Apache-2.0 by its headers
    (written from our description).
    Differs: saliency is the mean over heads, the release has their sum, which matters for ``sum``
    alone.
    """

    config: CoverageConfig

    @property
    def needs(self) -> frozenset[str]:
        """What is compared, and the attention of one layer."""
        return needs_of(self.config.of) | self._cue

    @property
    def _cue(self) -> frozenset[str]:
        if self.config.layer is None:
            return frozenset()
        return frozenset({attention_cue(self.config.layer, self.config.query)})

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        unit, keep = unit_vectors(tokens, self.config.of), tokens.keep
        saliency = torch.ones_like(unit[..., 0])
        for cue in self._cue:
            saliency = importance_of(tokens, cue).where(keep, 0.0) ** self.config.alpha
        picks = torch.zeros((len(keep), n_anchors), dtype=torch.long, device=keep.device)
        parts = pieces(len(unit), unit.shape[1] ** 2)
        for part in parts:
            picks[part] = self._picks(unit[part], saliency[part], keep[part], n_anchors)
        return picks

    def _picks(
        self,
        unit: Float[Tensor, "frames tokens width"],
        saliency: Float[Tensor, "frames tokens"],
        keep: Tensor,
        n_anchors: int,
    ) -> Tensor:
        cosine = (unit @ unit.mT) * keep[:, :, None]  # rows: what is covered
        covered = torch.zeros_like(saliency)
        frame = torch.arange(len(keep), device=keep.device)
        open_, picks = keep.clone(), []
        for _ in range(n_anchors):
            gain = (cosine - covered[..., None]).clamp_min(0).sum(1)
            score = gain * saliency if self.config.combine == "product" else gain + saliency
            pick = score.masked_fill(~open_, -torch.inf).argmax(-1)
            open_[frame, pick] = False
            covered = torch.maximum(covered, cosine[frame, :, pick])
            picks.append(pick)
        return torch.stack(picks, -1) if picks else keep.new_zeros(len(keep), 0).long()
