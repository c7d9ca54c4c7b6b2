"""Diverse anchors: each pick is the token that is farthest from all earlier ones."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import InputError, StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.similarity import pieces
from tokenred.strategies.selectors.vectors import (
    OF_TEXT,
    needs_of,
    once,
    products_with,
    unit_vectors,
    vectors_of,
)


class MaxMinConfig(StrategyConfig):
    """Settings of the max-min selector."""

    of: TokenCue = Field("features", description=OF_TEXT)
    released: bool = Field(
        False,
        description="let a token be picked again where the others are no farther away, and a zero "
        "vector spoil the choice; a single token is refused",
    )


class MaxMinSelector(AnchorSelector):
    """Pick tokens one by one, each with the largest cosine distance to the nearest pick before it.

    The first is the token with the largest distance to its nearest neighbour. Only distances to
    picks are computed, but for those of the first one, which are not kept.

    Shapes
    ------
    ``of`` : (frames, tokens, width)      returns : (frames, n_anchors), in the order of picking;
    with ``released`` -1 behind the picks where some repeat

    Raises
    ------
    InputError
        With ``released``, if a frame has a single token.

    Source
    ------
    DivPrune, arXiv 2503.02175; vbdi/divprune@799e2d9 ``LlavaMetaForCausalLM.DivPrune``.
    Licence of source: CC BY-NC 4.0 (written from our description).
    Differs: no token is picked twice; a zero vector is like nothing.
    """

    config: MaxMinConfig

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared."""
        return needs_of(self.config.of)

    @property
    def adaptive(self) -> bool:
        """Whether picks may repeat."""
        return self.config.released

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        vectors, keep = self._vectors(tokens), tokens.keep
        frame = torch.arange(len(keep), device=keep.device)
        picks = torch.zeros((len(keep), n_anchors), dtype=torch.long, device=keep.device)
        score = _distance_to_the_next(vectors, keep)
        nearest = torch.full_like(score, torch.inf)
        for step in range(n_anchors):
            picks[:, step] = pick = score.masked_fill(~keep, -torch.inf).argmax(-1)
            nearest = torch.minimum(nearest, 1 - products_with(vectors, vectors[frame, pick]))
            if not self.config.released:
                nearest[frame, pick] = -torch.inf
            score = nearest
        return once(picks) if self.config.released else picks

    def _vectors(self, tokens: VisualTokens) -> Float[Tensor, "frames tokens width"]:
        """Return vectors of length one; with ``released`` not a number where there is no length."""
        if not self.config.released:
            return unit_vectors(tokens, self.config.of)
        if bool((tokens.keep.sum(-1) < 2).any()):
            raise InputError("the released code compares a token with its next, and there is none")
        vectors = vectors_of(tokens, self.config.of)
        scaled: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
        return scaled.masked_fill(~tokens.keep[..., None], 0.0)


def _distance_to_the_next(
    vectors: Float[Tensor, "frames tokens width"], keep: Tensor
) -> Float[Tensor, "frames tokens"]:
    """Return each token's distance to its nearest neighbour; infinity for the only token."""
    found = []
    for rows in pieces(vectors.shape[1], keep.numel()):
        distance = 1 - vectors[:, rows] @ vectors.mT
        distance = distance.masked_fill(~keep[:, None], torch.inf)
        # The smallest is the token's distance to itself.
        found.append(distance.topk(min(2, distance.shape[-1]), largest=False).values[..., -1])
    return torch.cat(found, dim=1)
