"""Anchors that matter and are unlike those chosen before: maximal marginal relevance."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.strategies.selectors.importance import importance_of, top_index
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, vectors_of


class MarginalRelevanceConfig(StrategyConfig):
    """Settings of the marginal-relevance selector."""

    importance: TokenCue = Field(
        "salience@features", description="cue with one number a token: how much it matters"
    )
    of: TokenCue = Field("features", description=OF_TEXT)
    balance: float = Field(
        0.5, ge=0, le=1, description="weight of importance; the rest is that of being different"
    )
    per_step: int = Field(
        1, ge=1, le=2**20, description="tokens that are chosen at once, before similarities are new"
    )


class MarginalRelevanceSelector(AnchorSelector):
    """Pick tokens one by one by importance, less their largest similarity to a pick before.

    Importance is scaled to lie between 0 and 1 among the open tokens. The first picks are the most
    important tokens.

    Shapes
    ------
    ``importance`` : (frames, tokens), ``of`` : (frames, tokens, width)      returns : (frames,
    n_anchors), in the order of picking

    Source
    ------
    IDPruner, arXiv 2602.13315; Tencent/AngelSlim@67394ce. Licence of source: Apache-2.0 (written
    from our description).
    Differs: nothing; what the release lets its settings execute as code is no setting here.
    """

    config: MarginalRelevanceConfig

    @property
    def needs(self) -> frozenset[str]:
        """Importance, and the cue that is compared."""
        return needs_of(self.config.of) | {self.config.importance}

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        keep, balance = tokens.keep, self.config.balance
        vectors = vectors_of(tokens, self.config.of)
        unit = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-8)
        raw = importance_of(tokens, self.config.importance)
        low = raw.masked_fill(~keep, torch.inf).amin(-1, keepdim=True)
        worth = (raw - low) / (raw.amax(-1, keepdim=True) - low + 1e-6)
        nearest = torch.zeros_like(worth)
        score, picks = worth, []
        open_ = keep.clone()
        while (left := n_anchors - sum(each.shape[1] for each in picks)) > 0:
            best = top_index(score.masked_fill(~open_, -torch.inf), min(left, self.config.per_step))
            open_.scatter_(-1, best, False)
            chosen = unit.gather(1, best[..., None].expand(-1, -1, unit.shape[-1]))
            alike = (unit @ chosen.mT).amax(-1)
            nearest = torch.maximum(nearest, alike) if picks else alike
            score = balance * worth - (1 - balance) * nearest
            picks.append(best)
        if not picks:
            return torch.empty((len(keep), 0), dtype=torch.long, device=keep.device)
        return torch.cat(picks, dim=-1)
