"""Diverse anchors by removing duplicates round by round: the second half of VisPruner."""

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import InputError, StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import (
    QUERY_TEXT,
    LayerSpec,
    Query,
    attention_cue,
    importance_of,
    top_index,
)
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, unit_vectors


class DuplicateRemovalConfig(StrategyConfig):
    """Settings of the duplicate-removal selector."""

    layer: LayerSpec = Field(
        "features", description="layer of the attention that orders the tokens"
    )
    query: Query = Field("any", description=QUERY_TEXT)
    of: TokenCue = Field("features", description=OF_TEXT)
    per_round: int = Field(8, ge=1, le=2**20, description="tokens that one round removes at most")
    released: bool = Field(
        False, description="refuse the counts with which the released code fails"
    )


class DuplicateRemovalSelector(AnchorSelector):
    """Remove the tokens that another one resembles most, a few at a time, until enough are gone.

    The open tokens of a frame stand in a list, most attended first. A round compares those at even
    places with those at odd places and removes the ``per_round`` even ones with the closest odd
    partner. The even ones that are left go to the front, most alike first, the odd ones behind
    them, so every round splits another way.

    Shapes
    ------
    cues ``salience@LAYER`` (``attention@``, ``class-attention@``) : (frames, tokens); ``of`` :
    (frames, tokens, width)      returns : (frames, n_anchors), in the order of the last list

    Raises
    ------
    InputError
        With ``released``, if a round begins with an odd number of tokens or with fewer than twice
        what it is to remove.

    Source
    ------
    VisPruner, arXiv 2412.01818; Theia-4869/VisPruner@aefa01a ``encode_images``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: odd and small numbers work; a list of n loses at most n/2, rounded up, in a round.
    """

    config: DuplicateRemovalConfig

    @property
    def needs(self) -> frozenset[str]:
        """The attention, and the cue that is compared."""
        return needs_of(self.config.of) | {self._attention}

    @property
    def _attention(self) -> str:
        return attention_cue(self.config.layer, self.config.query)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices."""
        by_attention = top_index(importance_of(tokens, self._attention), tokens.keep.shape[1])
        vectors = unit_vectors(tokens, self.config.of)
        n_open = tokens.keep.sum(-1)
        chosen = by_attention[:, :n_anchors].clone()
        for count in n_open.unique().tolist():  # frames with equally many tokens go together
            some = n_open == count
            similarity = vectors[some] @ vectors[some].mT
            chosen[some] = self._thin(by_attention[some, :count], similarity, n_anchors)
        return chosen

    def _thin(
        self,
        rest: Int[Tensor, "frames open"],
        similarity: Float[Tensor, "frames tokens tokens"],
        n_keep: int,
    ) -> Int[Tensor, "frames kept"]:
        frame = torch.arange(len(rest), device=rest.device)[:, None, None]
        while rest.shape[1] > n_keep:
            even, odd = rest[:, 0::2], rest[:, 1::2]
            n_drop = min(self.config.per_round, rest.shape[1] - n_keep)
            if self.config.released and (rest.shape[1] % 2 or n_drop > even.shape[1]):
                raise InputError(
                    f"the released code cannot remove {n_drop} of {rest.shape[1]} tokens: it needs "
                    "an even number, at least twice as many"
                )
            closest = similarity[frame, even[:, :, None], odd[:, None, :]].amax(-1)
            most_alike = closest.argsort(dim=-1, descending=True, stable=True)
            rest = torch.cat([even.gather(-1, most_alike[:, n_drop:]), odd], dim=-1)
        return rest
