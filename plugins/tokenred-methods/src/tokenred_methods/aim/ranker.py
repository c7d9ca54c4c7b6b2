"""Page rank on the attention of a layer."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import TokenRanker
from tokenred.types import LayerState


class PageRankConfig(StrategyConfig):
    """Settings of page rank."""

    temperature: float = Field(
        0.1, ge=0.01, le=100, description="logits of the attention are divided by it"
    )
    iterations: int = Field(5, ge=1, le=1000, description="how often mass is passed on")
    damping: float = Field(
        0.0, ge=0, le=1, description="share of the mass that is spread evenly in each iteration"
    )


class PageRankRanker(TokenRanker):
    """Score a token by the mass that gathers in it when each token passes on what it has.

    All tokens of the sequence start with the same mass; each passes it on as its row of the
    attention says, sharpened by a temperature. The score is the root mean square over heads.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    AIM, arXiv 2412.03248; LaVi-Lab/AIM@edc24e9 ``get_importance``. Licence of source: Apache-2.0
    (written from our description).
    Differs: computed in float64, in which small masses do not become zero. Tokens that have gone
    pass on nothing; the release only hides them, and counts their rows.
    """

    config: PageRankConfig
    reads = frozenset({"attention"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the root mean square of the mass over heads."""
        n, damping = len(state.hidden), self.config.damping
        rows = state.attention(torch.arange(n, device=candidates.device)).double()
        passed = (rows.log() / self.config.temperature).softmax(-1)
        mass = passed.new_full((len(passed), 1, n), 1 / n)
        for _ in range(self.config.iterations):
            mass = mass @ passed * (1 - damping) + damping / n
        return mass[:, 0].square().mean(0).sqrt()[candidates]
