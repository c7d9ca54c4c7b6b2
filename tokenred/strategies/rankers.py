"""Rankers: which visual tokens stay, seen from between two layers of the LLM."""

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import TokenRanker
from tokenred.types import LayerState


def text_after(state: LayerState) -> Int[Tensor, "text"]:
    """Return the text tokens behind the last image or video; the last token if there are none."""
    places = torch.arange(len(state.clip), device=state.clip.device)
    last_visual = places[state.clip >= 0].max() if bool((state.clip >= 0).any()) else -1
    behind = places[(places > last_visual) & (places <= state.last)]
    return behind if len(behind) else places[[state.last]]


class LastQueryRanker(TokenRanker):
    """Score a token by the attention that the last token of the prompt gave it, mean over heads.

    The attention is that of the layer before, which has been computed anyway.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    FastV, arXiv 2403.06764; pkunlp-icler/FastV@d165972 ``LlamaModel.forward`` (no licence file at
    the root). HoliTom, arXiv 2505.21334, ranks alike. Written from our description.
    Differs: nothing.
    """

    reads = frozenset({"attention"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the head mean of the last row."""
        last = candidates.new_tensor([state.last])
        return state.attention(last).mean(0)[0, candidates]


class RandomRankerConfig(StrategyConfig):
    """Settings of the random ranker."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="another seed, another draw")


class RandomRanker(TokenRanker):
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

    config: RandomRankerConfig

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return one uniform number for each candidate."""
        seed = 0
        for part in (self.config.seed, state.layer, state.n_visual):
            seed = (seed * 1_000_003 + part) % 2**63
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(len(state.hidden), generator=generator)
        return draw.to(candidates.device)[candidates]
