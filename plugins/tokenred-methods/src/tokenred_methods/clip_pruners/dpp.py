"""Relevant and diverse anchors: the greedy mode of a determinantal point process."""

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.determinant import greedy_determinant
from tokenred.strategies.selectors.importance import importance_of
from tokenred.strategies.selectors.vectors import (
    OF_TEXT,
    needs_of,
    products_with,
    unit_vectors,
)

FLOOR = 1e-6
RIDGE = 1e-4


class DppConfig(StrategyConfig):
    """Settings of the DPP selector."""

    relevance: str | None = Field(
        None,
        description="per-token cue with the relevance: one that the caller brings, or attention "
        "such as 'salience@features'; null: all tokens are equally relevant",
    )
    of: TokenCue = Field("features", description=OF_TEXT)
    released: bool = Field(
        False,
        description="scale relevance over all frames at once and pick without a guard, so that "
        "picks repeat where there are more of them than the features have dimensions",
    )


class DppSelector(AnchorSelector):
    """Pick tokens one by one, each adding most to the volume that the picked ones span.

    The kernel is ``relevance_i * cosine_ij * relevance_j``, with the relevance scaled to [0, 1]
    over the open tokens of a frame. Only the rows of picked tokens are ever computed.

    Shapes
    ------
    cue ``relevance`` : (frames, tokens); ``of`` : (frames, tokens, width)
    returns : (frames, n_anchors), in the order of picking; with ``released`` a (frames, tokens)
    mask, in which picks that repeat are missing

    Source
    ------
    CDPruner, arXiv 2506.10967; Theia-4869/CDPruner@9541616 ``encode_images``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: relevance is scaled in each frame alone, not over the batch; what a token adds never
    falls below 1e-4 of its own weight, so that exactly ``n_anchors`` different ones are picked.
    """

    config: DppConfig

    @property
    def needs(self) -> frozenset[str]:
        """The relevance, and the cue that is compared."""
        relevance = () if self.config.relevance is None else (self.config.relevance,)
        return needs_of(self.config.of).union(relevance)

    @property
    def looks_across_frames(self) -> bool:
        """Whether the frames share one scale of relevance."""
        return self.config.released and self.config.relevance is not None

    @property
    def adaptive(self) -> bool:
        """Whether it may pick fewer tokens than it is asked for."""
        return self.config.released

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        vectors = unit_vectors(tokens, self.config.of)
        relevance = self._relevance(tokens)
        own = relevance.square() * (1.0 if self.config.released else 1.0 + RIDGE)
        frame = torch.arange(len(own), device=own.device)

        def kernel_row(pick: Tensor) -> Tensor:
            alike = products_with(vectors, vectors[frame, pick])
            return relevance[frame, pick][:, None] * alike * relevance

        picks = greedy_determinant(
            own.masked_fill(~tokens.keep, -torch.inf),
            kernel_row,
            n_anchors,
            floor=-math.inf if self.config.released else None,
        )
        if self.config.released:
            return torch.zeros_like(tokens.keep).scatter(-1, picks, True) & tokens.keep
        return picks

    def _relevance(self, tokens: VisualTokens) -> Float[Tensor, "frames tokens"]:
        """Return the relevance scaled to [0, 1], and 0 where a token is not open."""
        if self.config.relevance is None:
            return tokens.keep.float()
        values = importance_of(tokens, self.config.relevance)
        if self.config.released:
            low, high = values[tokens.keep].aminmax()
            scaled = (values - low + FLOOR) / (high - low)
        else:
            low = values.masked_fill(~tokens.keep, torch.inf).amin(-1, keepdim=True)
            width = values.amax(-1, keepdim=True) - low
            scaled = torch.where(width > 0, (values - low) / width, 1.0).clamp_min(FLOOR)
        return scaled.masked_fill(~tokens.keep, 0.0)
