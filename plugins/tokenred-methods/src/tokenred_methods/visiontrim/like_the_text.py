"""Anchors that are most like the words of the question."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import top_index
from tokenred.strategies.selectors.text import TEXT_OF_TEXT, TEXT_TEXT, text_cosines
from tokenred.strategies.selectors.vectors import needs_of


class LikeTheTextConfig(StrategyConfig):
    """Settings of the like-the-text selector."""

    text: TokenCue = Field("text-similarity", description=TEXT_TEXT)
    text_of: TokenCue = Field("features", description=TEXT_OF_TEXT)


class LikeTheTextSelector(AnchorSelector):
    """Select the tokens of each frame with the largest cosine to the question, mean over words.

    Shapes
    ------
    cue ``text`` : (frames, tokens, words); ``text_of`` : (frames, tokens, width)
    returns : (frames, n_anchors), the most similar first

    Source
    ------
    VisionTrim, arXiv 2601.22674; hanxunyu/VisionTrim@22b686d ``token_prune_visiontrim``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: nothing; which words there are is up to the cue.
    """

    config: LikeTheTextConfig

    @property
    def needs(self) -> frozenset[str]:
        """The words, and what they were multiplied with."""
        return needs_of(self.config.text_of) | {self.config.text}

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices, most similar first."""
        alike = text_cosines(tokens, self.config.text, self.config.text_of).mean(-1)
        return top_index(alike.masked_fill(~tokens.keep, -torch.inf), n_anchors)
