"""Important and diverse anchors: maximal marginal relevance."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.merge import gather_tokens
from tokenred.strategies.selectors.importance import importance_of, top_index
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, unit_vectors


class MmrConfig(StrategyConfig):
    """Settings of the MMR selector."""

    importance: TokenCue = Field(
        "salience@-2",
        description="per-token cue with the importance: attention, or one that the caller brings",
    )
    of: TokenCue = Field("features", description=OF_TEXT)
    balance: float = Field(
        0.5, ge=0, le=1, description="share of the importance, against likeness to earlier picks"
    )
    per_step: int = Field(1, ge=1, le=2**20, description="tokens that are picked at once")


class MmrSelector(AnchorSelector):
    """Pick tokens step by step, each important and unlike all that were picked before it.

    Importance is scaled to [0, 1] over the open tokens of a frame. The first picks are the most
    important tokens; later ones have the largest ``balance * importance - (1 - balance) *
    (largest cosine to a pick)``.

    Shapes
    ------
    cue ``importance`` : (frames, tokens); ``of`` : (frames, tokens, width)
    returns : (frames, n_anchors), in the order of picking

    Source
    ------
    IDPruner, arXiv 2602.13315; Tencent/AngelSlim@67394ce ``idpruner``. Licence of source:
    Apache-2.0 (written from our description).
    Differs: a cue takes the place of the trained scorer; of equals the first wins.
    """

    config: MmrConfig

    @property
    def needs(self) -> frozenset[str]:
        """The importance, and the cue that is compared."""
        return needs_of(self.config.of) | {self.config.importance}

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        vectors, importance = unit_vectors(tokens, self.config.of), self._importance(tokens)
        share = self.config.balance
        closest = torch.full_like(importance, -torch.inf)
        score, gone = importance, ~tokens.keep
        steps = []
        for start in range(0, n_anchors, self.config.per_step):
            number = min(self.config.per_step, n_anchors - start)
            picks = top_index(score.masked_fill(gone, -torch.inf), number)
            steps.append(picks)
            gone = gone.scatter(-1, picks, True)
            alike = vectors @ gather_tokens(vectors, picks).mT
            closest = closest.maximum(alike.amax(-1))
            score = share * importance - (1 - share) * closest
        return torch.cat(steps, dim=-1) if steps else top_index(importance, 0)

    def _importance(self, tokens: VisualTokens) -> Float[Tensor, "frames tokens"]:
        """Return the importance scaled to [0, 1], and 0 where a token is not open."""
        values = importance_of(tokens, self.config.importance)
        low = values.masked_fill(~tokens.keep, torch.inf).amin(-1, keepdim=True)
        scaled = (values - low) / (values.amax(-1, keepdim=True) - low + 1e-6)
        return scaled.masked_fill(~tokens.keep, 0.0)
