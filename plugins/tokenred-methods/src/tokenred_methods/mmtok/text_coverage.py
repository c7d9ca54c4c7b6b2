"""Anchors that cover the words of the question and the other tokens."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.coverage import most_covering
from tokenred.strategies.selectors.text import TEXT_OF_TEXT, TEXT_TEXT, text_cosines
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, unit_vectors


class TextCoverageConfig(StrategyConfig):
    """Settings of the text-coverage selector."""

    text: TokenCue = Field("text-similarity", description=TEXT_TEXT)
    text_of: TokenCue = Field("features", description=TEXT_OF_TEXT)
    of: TokenCue = Field("tower", description=OF_TEXT)
    alpha: float = Field(
        0.5, ge=0, le=100, description="weight of the other tokens, where that of the words is 1"
    )
    text_temperature: float = Field(
        0.02, ge=1e-3, le=100, description="of the soft-max over the tokens that a word is like"
    )
    temperature: float = Field(
        0.2, ge=1e-3, le=100, description="of the soft-max over the tokens that a token is like"
    )
    dropped: Literal["ignore", "cover"] = Field(
        "ignore",
        description="whether tokens that were dropped before are to be covered as well, and share "
        "in each soft-max; they are never picked",
    )


class TextCoverageSelector(AnchorSelector):
    """Pick tokens one by one, each adding most to how well words and tokens are covered.

    Every word of the question, and every token, spreads a mass over the tokens of the frame by a
    soft-max of cosines; the words share a mass of one, and the tokens share ``alpha``. A word or
    token is covered as far as the largest of its masses on a pick.

    Shapes
    ------
    cue ``text`` : (frames, tokens, words); ``of``, ``text_of`` : (frames, tokens, width)
    returns : (frames, n_anchors), in the order of picking

    Source
    ------
    MMTok, arXiv 2508.18264; Ironieser/MMTok@d1522cd ``mm_coverage_selection``. Licence of source:
    Apache-2.0 (written from our description).
    Differs: what a token would add is updated, in float64, and not summed anew at every pick.
    """

    config: TextCoverageConfig

    @property
    def needs(self) -> frozenset[str]:
        """The words, and the cues that are compared."""
        compared = needs_of(self.config.of) | needs_of(self.config.text_of)
        return compared | {self.config.text}

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        vectors = unit_vectors(tokens, self.config.of)
        text = text_cosines(tokens, self.config.text, self.config.text_of)
        frames = zip(vectors, text, tokens.keep, strict=True)
        return torch.stack([self._of_frame(*frame, n_anchors) for frame in frames])

    def _of_frame(
        self,
        vectors: Float[Tensor, "tokens width"],
        text: Float[Tensor, "tokens words"],
        keep: Tensor,
        n_picks: int,
    ) -> Int[Tensor, "picks"]:
        places = keep.nonzero()[:, 0]
        spread = places if self.config.dropped == "ignore" else torch.arange(len(keep)).to(places)
        alike, words = vectors[spread] @ vectors[spread].mT, text[spread].mT
        matrix = torch.cat(
            (
                (words / self.config.text_temperature).softmax(-1) / len(words),
                self.config.alpha * (alike / self.config.temperature).softmax(-1) / len(alike),
            )
        )
        if self.config.dropped == "cover":
            matrix = matrix[:, places]
        return places[most_covering(matrix, n_picks)]
