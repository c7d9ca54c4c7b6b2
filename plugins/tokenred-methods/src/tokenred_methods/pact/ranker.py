"""Importance from keys and queries, before any attention is computed."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import TokenRanker
from tokenred.types import LayerState


class KeyQueryRankerConfig(StrategyConfig):
    """Settings of the ranking by keys and queries."""

    share: float = Field(
        0.55,
        ge=0,
        le=1,
        description="where the schedule says `adaptive`: of the candidates, rounded down; as "
        "released, a share of no token at all keeps all but one",
    )


class KeyQueryRanker(TokenRanker):
    """Score a token by its key's agreement with the mean query, times the norm of its state.

    Queries and keys are those of the next layer, without rotary embedding. The soft-max runs over
    all tokens up to the last visual one, for each head; its mean over heads counts.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    PACT, arXiv 2504.08966; orailix/PACT@cf9a0c9. Licence of source: MIT (written from our
    description).
    Differs: nothing.
    """

    config: KeyQueryRankerConfig
    counts = True

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the products of share and norm."""
        query, key, scaling = state.projections("next", rotary=False)
        end = int(state.visual.nonzero().max()) + 1
        mean = query[:, :end].float().mean(1)
        key = key[:, :end].float().repeat_interleave(len(mean) // len(key), 0)
        shares = (torch.einsum("hd,hnd->hn", mean, key) * scaling).softmax(-1).mean(0)
        return shares[candidates] * state.hidden[candidates].float().norm(dim=-1)

    def n_kept(self, state: LayerState, candidates: Tensor) -> int:
        """Return the share rounded down; all but one where that is none."""
        kept = int(len(candidates) * self.config.share)  # plain floats, as released
        return kept or len(candidates) - 1
