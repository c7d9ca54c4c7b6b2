"""Global anchors only: the tokens that receive most attention."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    attention_cue,
    importance_of,
    top_index,
)
from tokenred.types import VisualTokens


class TopAttentionConfig(StrategyConfig):
    """Settings of the top-attention selector."""

    layer: LayerSpec = Field(-2, description="layer of the importance, or the pooling head")
    query: Query = Field("tokens", description=QUERY_TEXT)


class TopAttentionSelector(AnchorSelector):
    """Select the tokens of each frame that receive most attention at one layer.

    Shapes
    ------
    cue ``attention@LAYER`` (``class-attention@``, ``salience@``) : (frames, tokens)
    returns : (frames, n_anchors)

    Source
    ------
    AOT, arXiv 2603.01400, Eqs. 6-7 (after VisionZip and FasterVLM); the row "w/o local anchors" of
    its Table 5. Licence of source: Apache-2.0 (written from our description).
    Differs: towers without a class token use the mean attention received from all tokens.
    """

    config: TopAttentionConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention of one layer."""
        return frozenset({attention_cue(self.config.layer, self.config.query)})

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices, most important first."""
        (cue,) = self.needs
        return top_index(importance_of(tokens, cue), n_anchors)
