"""Pivots by the size of their keys, and the tokens that are least alike to each of them."""

from typing import Literal

import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import ConfigError, InputError
from tokenred.interfaces import TokenRanker
from tokenred.strategies.rankers import text_after
from tokenred.types import LayerState

MOST_PIVOTS, MOST_KEPT = 1024, 2**24


class PivotRankerConfig(StrategyConfig):
    """Settings of the ranking by distance from pivots."""

    image_pivots: int = Field(4, ge=0, le=MOST_PIVOTS, description="pivots among visual tokens")
    text_pivots: int = Field(
        4, ge=0, le=MOST_PIVOTS, description="pivots among the text behind the last of them"
    )
    share: float = Field(
        0.222, ge=0, le=1, description="of the visual tokens that stay; 0.222 in the release"
    )
    tokens: int | None = Field(
        None, ge=0, le=MOST_KEPT, description="the same as a number, which goes before the share"
    )
    exact: bool = Field(
        True,
        description="visual pivots count among that number, and the first pivots take what is left "
        "over; as released, pivots are kept on top and every pivot takes equally many",
    )
    too_few: Literal["take", "refuse"] = Field(
        "take",
        description="where there are fewer tokens than pivots, or than they should take: all of "
        "them, or an error as in the release",
    )
    order: Literal["norm", "hash"] = Field(
        "norm",
        description="which pivot chooses first: that of the largest key, or the order in which a "
        "set of sequence indices happens to lie in memory, as in the release",
    )

    @model_validator(mode="after")
    def _some_pivot(self) -> "PivotRankerConfig":
        if self.image_pivots + self.text_pivots == 0:
            raise ConfigError("at least one pivot is needed", ["image_pivots"])
        return self


class PivotRanker(TokenRanker):
    """Score a token by how early a pivot takes it: pivots themselves, then what is least alike.

    Pivots are the visual tokens, and the text tokens behind them, whose keys in the layer before
    have the largest L1 norm over all heads. One after the other takes its share of the visual
    tokens that no one took yet, those of the lowest cosine to it, of the hidden states behind the
    LLM's final norm. What nobody took comes last.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Raises
    ------
    InputError
        If ``too_few`` is ``refuse``, and there are fewer tokens than pivots, or than they take.

    Source
    ------
    DART, arXiv 2502.11494; ZichenWen1/DART as copied in Chenfei-Liao/VTC-Bench@983e443,
    ``DART.get_retained_image_token``. Licence of source: Apache-2.0 (written from our description).
    Differs: nothing with ``order: hash``, ``exact: false`` and ``too_few: refuse``.
    """

    config: PivotRankerConfig
    counts = True
    reads = frozenset({"previous-input"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return minus the place at which each candidate is taken."""
        taken = self._taken(state, candidates)
        place = torch.full((len(state.hidden),), len(candidates), device=candidates.device)
        place[taken] = torch.arange(len(taken), device=candidates.device)
        return -place[candidates].float()

    def n_kept(self, state: LayerState, candidates: Tensor) -> int:
        """Return how many tokens are pivots or taken by one."""
        n_image = min(self.config.image_pivots, len(candidates))
        n_text = min(self.config.text_pivots, len(text_after(state)))
        taken = n_image + sum(self._shares(len(candidates), n_image, n_image + n_text))
        most = self._number(len(candidates)) if self.config.exact else len(candidates)
        return min(taken, most, len(candidates))

    def _number(self, n_candidates: int) -> int:
        if self.config.tokens is not None:
            return self.config.tokens
        return round(n_candidates * self.config.share)

    def _shares(self, n_candidates: int, n_image: int, n_pivots: int) -> list[int]:
        """Return how many tokens each pivot takes, in the order in which they choose."""
        if not n_pivots:
            return []
        if self.config.exact:
            left = max(0, self._number(n_candidates) - n_image)
            return [left // n_pivots + (place < left % n_pivots) for place in range(n_pivots)]
        number: float | int | None = self.config.tokens
        if number is None:
            number = n_candidates * self.config.share  # plain floats, as released
        return [int(number // n_pivots)] * n_pivots

    def _taken(
        self, state: LayerState, candidates: Int[Tensor, "candidates"]
    ) -> Int[Tensor, "taken"]:
        pivots = choose_pivots(state, candidates, self.config)
        is_image = torch.isin(pivots, candidates)
        parts, left = [pivots[is_image]], candidates[~torch.isin(candidates, pivots)]
        shares = self._shares(len(candidates), int(is_image.sum()), len(pivots))
        if sum(shares) > len(left) and self.config.too_few == "refuse":
            raise InputError(
                f"the pivots should take {sum(shares)} visual tokens, but only {len(left)} are left"
            )
        unit = torch.nn.functional.normalize(state.final_norm(state.hidden).float(), dim=-1)
        for pivot, share in zip(pivots.tolist(), shares, strict=True):
            order = (unit[left] @ unit[pivot]).argsort(stable=True)
            parts.append(left[order[:share]])
            left = left[order[share:].sort().values]
        return torch.cat(parts)


def choose_pivots(
    state: LayerState, candidates: Int[Tensor, "candidates"], config: PivotRankerConfig
) -> Int[Tensor, "pivots"]:
    """Return the pivots as tokens of the state, in the order in which they choose."""
    norm = state.projections("previous").key.float().abs().sum((0, 2))
    parts = []
    for among, n in ((candidates, config.image_pivots), (text_after(state), config.text_pivots)):
        if len(among) < n and config.too_few == "refuse":
            raise InputError(f"{n} pivots should be chosen from {len(among)} tokens")
        parts.append(among[norm[among].argsort(descending=True, stable=True)[:n]])
    found = torch.cat(parts)
    if config.order == "norm":
        return found[norm[found].argsort(descending=True, stable=True)]
    at = dict(zip(state.origin[found].tolist(), found.tolist(), strict=True))
    # CPython iterates over a set of integers by their remainders, and by its size when filled.
    indices = state.origin[found].tolist()
    return found.new_tensor([at[each] for each in set(indices)])
