"""Anchors that both the class token and the patches attend to."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.similarity import FLOOR
from tokenred.strategies.selectors.importance import importance_of, top_index


class TwoAttentionsConfig(StrategyConfig):
    """Settings of the two-attentions selector."""

    first: TokenCue = Field("salience@features", description="per-token cue with one attention")
    second: TokenCue = Field(
        "patch-attention@features", description="per-token cue with the other attention"
    )


class TwoAttentionsSelector(AnchorSelector):
    """Select the tokens of each frame with the largest sum of two kinds of attention.

    Each kind is divided by its Euclidean norm over the open tokens of the frame, so that neither
    outweighs the other.

    Shapes
    ------
    cues ``first``, ``second`` : (frames, tokens)
    returns : (frames, n_anchors), the largest first

    Source
    ------
    VisionTrim, arXiv 2601.22674; hanxunyu/VisionTrim@22b686d ``token_prune_visiontrim``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: the affinity of neighbours is not computed, which the release overwrites.
    """

    config: TwoAttentionsConfig

    @property
    def needs(self) -> frozenset[str]:
        """Both kinds of attention."""
        return frozenset({self.config.first, self.config.second})

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices, most important first."""
        score = sum(self._scaled(tokens, cue) for cue in (self.config.first, self.config.second))
        return top_index(score.masked_fill(~tokens.keep, -torch.inf), n_anchors)

    def _scaled(self, tokens: VisualTokens, cue: str) -> Tensor:
        values = importance_of(tokens, cue).masked_fill(~tokens.keep, 0.0)
        return values / values.norm(dim=-1, keepdim=True).clamp_min(FLOOR)
