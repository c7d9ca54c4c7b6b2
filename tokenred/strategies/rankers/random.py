"""Random ranks: the control that every ranker has to beat."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import LayerState


class RandomRankerConfig(StrategyConfig):
    """Settings of the random ranker."""

    seed: int = Field(0, ge=0, description="another seed, another draw")


class RandomRanker:
    """Score tokens at random.

    The draw follows from the seed, the layer and the numbers of tokens, so it is the same in every
    run and whatever stands beside a prompt in its batch.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,) in [0, 1)

    Source
    ------
    A control of our own.
    Differs: there is nothing to differ from.
    """

    reads: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: RandomRankerConfig) -> None:
        self.config = config

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return one uniform number for each candidate."""
        seed = 0
        for part in (self.config.seed, state.layer, state.n_visual):
            seed = (seed * 1_000_003 + part) % 2**63
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(len(state.hidden), generator=generator)
        return draw.to(candidates.device)[candidates]
