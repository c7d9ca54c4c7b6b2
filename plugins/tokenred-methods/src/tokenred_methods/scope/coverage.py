"""Anchors that cover the others: greedy facility location, weighted by saliency."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.coverage import most_covering
from tokenred.strategies.selectors.importance import importance_of
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, unit_vectors


class CoverageConfig(StrategyConfig):
    """Settings of the coverage selector."""

    saliency: TokenCue | None = Field(
        None,
        description="per-token cue with the saliency: attention such as 'salience@-2', or one that "
        "the caller brings; null: all tokens are equally salient",
    )
    of: TokenCue = Field("features", description=OF_TEXT)
    alpha: float = Field(1.0, ge=0, le=100, description="power of the saliency")
    combine: Literal["multiply", "add"] = Field(
        "multiply", description="how what a token would cover and its saliency are combined"
    )
    scale: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="factor of the saliency before the power, which matters where it is added: the "
        "number of heads, if a cue is their mean and should be their sum",
    )


class CoverageSelector(AnchorSelector):
    """Pick tokens one by one, each adding most to how well all tokens are covered.

    A token is covered as far as the most similar pick resembles it; cosines below zero cover
    nothing. What a token would add is weighted by its saliency.

    Shapes
    ------
    cue ``saliency`` : (frames, tokens); ``of`` : (frames, tokens, width)
    returns : (frames, n_anchors), in the order of picking

    Source
    ------
    SCOPE, arXiv 2510.24214; kinredon/SCOPE@6bf7306 ``SCOPE``. Licence of source: Apache-2.0 by the
    header of the file (written from our description).
    Differs: what a token would add is updated, in float64, and not summed anew at every pick; a
    zero vector resembles nothing.
    """

    config: CoverageConfig

    @property
    def needs(self) -> frozenset[str]:
        """The saliency, and the cue that is compared."""
        saliency = () if self.config.saliency is None else (self.config.saliency,)
        return needs_of(self.config.of).union(saliency)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        vectors, weight = unit_vectors(tokens, self.config.of), self._weight(tokens)
        alive = [keep.nonzero()[:, 0] for keep in tokens.keep]
        picks = [
            places[self._of_frame(vectors[frame, places], weight[frame, places], n_anchors)]
            for frame, places in enumerate(alive)
        ]
        return torch.stack(picks)

    def _weight(self, tokens: VisualTokens) -> Float[Tensor, "frames tokens"]:
        if self.config.saliency is None:
            return tokens.keep.double()
        saliency = importance_of(tokens, self.config.saliency).double()
        return (self.config.scale * saliency).masked_fill(~tokens.keep, 0.0).pow(self.config.alpha)

    def _of_frame(
        self, vectors: Float[Tensor, "tokens width"], weight: Float[Tensor, "tokens"], n_picks: int
    ) -> Int[Tensor, "picks"]:
        def rate(gain: Tensor) -> Tensor:
            return gain * weight if self.config.combine == "multiply" else gain + weight

        return most_covering(vectors @ vectors.mT, n_picks, rate)
