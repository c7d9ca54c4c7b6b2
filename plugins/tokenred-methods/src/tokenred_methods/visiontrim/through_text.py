"""A cost by what tokens have in common with the question."""

from pydantic import Field
from torch import Tensor

from tokenred.config import CostTermConfig, TokenCue
from tokenred.interfaces import CostTerm
from tokenred.strategies.costs import vectors
from tokenred.strategies.selectors.text import TEXT_OF_TEXT, TEXT_TEXT, cosines
from tokenred.strategies.selectors.vectors import needs_of
from tokenred.types import TokenGroup


class ThroughTextConfig(CostTermConfig):
    """Settings of the through-text cost."""

    text: TokenCue = Field("text-similarity", description=TEXT_TEXT)
    text_of: TokenCue = Field("features", description=TEXT_OF_TEXT)


class ThroughTextCost(CostTerm):
    """Cost ``-sum_t cos(source, t) cos(t, anchor)`` over the words ``t`` of the question.

    Two tokens are near if they are like the same words.

    Shapes
    ------
    cue ``text`` : (*batch, n, words); ``text_of`` : (*batch, n, width); returns (*batch, sources,
    anchors) in float32 (float64 stays)

    Source
    ------
    VisionTrim, arXiv 2601.22674; hanxunyu/VisionTrim@22b686d ``token_prune_visiontrim``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: CLIP's logit scale and the soft-max over anchors are left out, which change nothing
    about which anchor is nearest.
    """

    config: ThroughTextConfig
    allows_repeats = True

    @property
    def needs(self) -> frozenset[str]:
        """The words, and what they were multiplied with."""
        return needs_of(self.config.text_of) | {self.config.text}

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of every (source, anchor) pair."""
        left, right = (self._cosines(group) for group in (sources, anchors))
        return -(left @ right.mT)

    def _cosines(self, group: TokenGroup) -> Tensor:
        seen = vectors(group, self.config.text_of)
        return cosines(group.cues[self.config.text], seen)
