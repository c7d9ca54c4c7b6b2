"""Drop a fitted number of tokens in every layer."""

from typing import Annotated

import torch
from pydantic import BeforeValidator, Field, WithJsonSchema

from tokenred.config import StrategyConfig
from tokenred.errors import ConfigError, quoted
from tokenred.interfaces import LayerReducer, TokenRanker
from tokenred.slots import Slot, build
from tokenred.strategies.depth import DEEPEST
from tokenred.strategies.layer_reducers import MOST_TOKENS
from tokenred.types import LayerReduction, LayerState, LayerStep
from tokenred_methods.fitprune.tables import FITTED_FOR, TABLES


def _drops(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        if value in TABLES:
            return value
        nearest = min(TABLES, key=lambda known: abs(known - value))
        raise ConfigError(
            f"there is no fitted table for {value} per cent, the nearest is {nearest}"
        )
    if isinstance(value, list | tuple) and 0 < len(value) <= DEEPEST:
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in value)
        if whole and all(0 <= each <= MOST_TOKENS for each in value):
            return tuple(value)
    raise ConfigError(f"write a per cent or one count a layer, got {quoted(value)}")


_COUNT = {"type": "integer", "minimum": 0, "maximum": MOST_TOKENS}
_COUNTS = {"type": "array", "minItems": 1, "maxItems": DEEPEST, "items": _COUNT}
Drops = Annotated[
    int | tuple[int, ...],
    BeforeValidator(_drops),
    WithJsonSchema({"anyOf": [{"enum": list(TABLES)}, _COUNTS]}),
]


class DropTableConfig(StrategyConfig):
    """Settings of reduction by a table of drops."""

    drops: Drops = Field(
        60,
        description="tokens that go in each layer: the per cent of FLOPs whose released table is "
        "taken (10, 20, 30, 40, 50, 55, 60, 70, 80, 90), or the counts themselves, one a layer",
    )
    fitted_for: int | None = Field(
        FITTED_FOR,
        ge=1,
        le=MOST_TOKENS,
        description="visual tokens of the prompts on which the table was fitted: it is carried "
        "over to other prompts and depths in proportion; null: counts hold as they are",
    )
    same_depth: bool = Field(
        False, description="refuse an LLM that has another number of layers than the table"
    )
    ranker: Slot[TokenRanker] = Field(
        "self-cross", validate_default=True, description="what scores the tokens"
    )


class DropTableReducer(LayerReducer):
    """Drop the tokens of the lowest scores between attention and MLP, a number for every layer.

    The layer's own attention still sees all tokens that entered it. The table may be carried over:
    where it has dropped some share of its tokens at some share of its depth, that share of the
    visual tokens that entered has gone at that share of the LLM's depth, rounded to the nearest
    (halves to even). Of equal scores the earlier token stays. Newline tokens stay.

    Shapes
    ------
    state.hidden : (tokens, dim)      returns : ``source`` (kept,)

    Raises
    ------
    ConfigError
        If the LLM has more layers than a table that holds as it is, or with ``same_depth`` any
        other number.

    Source
    ------
    FitPrune, arXiv 2409.10197; ywh187/FitPrune@d28e418 ``LlamaAttention.forward``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: the table can be carried over; newline tokens are not among the visual ones.
    """

    config: DropTableConfig

    def __init__(self, config: DropTableConfig) -> None:
        super().__init__(config)
        self.ranker = build(TokenRanker, config.ranker)
        self._table = TABLES[config.drops] if isinstance(config.drops, int) else config.drops

    def steps(self, n_layers: int) -> list[LayerStep]:
        """Return a step in the middle of each layer in which the table drops something."""
        same, most = self.config.same_depth, len(self._table)
        if (same and n_layers != most) or (self.config.fitted_for is None and n_layers > most):
            raise ConfigError(
                f"the table has {most} layers, the LLM {n_layers}; fitted_for without same_depth "
                "carries it over",
                ["drops"],
            )
        gone = [self._gone(layer, n_layers) for layer in range(-1, n_layers)]
        return [
            LayerStep(layer, "middle", self.ranker.reads)
            for layer in range(n_layers)
            if gone[layer + 1] > gone[layer]
        ]

    def reduce(self, state: LayerState) -> LayerReduction | None:
        """Return the best tokens and all text."""
        candidates = state.visual.nonzero()[:, 0]
        count = self._count(state)
        if not len(candidates) or not count:
            return None
        ranks = self.ranker.rank(state, candidates).float()
        order = candidates[ranks.argsort(descending=True, stable=True)]
        stays = torch.ones_like(state.visual)
        stays[order[max(0, len(order) - count) :]] = False
        return LayerReduction(stays.nonzero()[:, 0])

    def _gone(self, layer: int, n_layers: int) -> int:
        """Return what the table has dropped up to a layer of the LLM, that layer included."""
        fitted = self.config.fitted_for
        reached = layer + 1 if fitted is None else (layer + 1) * len(self._table) // n_layers
        return sum(self._table[:reached])

    def _count(self, state: LayerState) -> int:
        before, after = (
            self._gone(layer, state.n_layers) for layer in (state.layer - 1, state.layer)
        )
        fitted = self.config.fitted_for
        if fitted is None:
            return after - before
        left = [state.n_visual - round(state.n_visual * each / fitted) for each in (before, after)]
        return max(0, left[0] - max(0, left[1]))
