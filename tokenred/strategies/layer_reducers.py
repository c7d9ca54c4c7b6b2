"""Rank visual tokens at some layers, keep the best, and do something with the rest."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import BeforeValidator, Field, WithJsonSchema
from torch import Tensor

from tokenred.config import StrategyConfig, fraction
from tokenred.errors import ConfigError, quoted
from tokenred.interfaces import LayerMerger, LayerReducer, TokenRanker
from tokenred.slots import Slot, build
from tokenred.strategies.depth import depth_key, layer_at
from tokenred.types import LayerReduction, LayerState, LayerStep

Amount = int | float | Literal["adaptive"]
Rounding = Literal["round", "floor", "ceil"]
MOST_TOKENS = 2**24
_ROUND: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor, "ceil": math.ceil}


def _amount(value: object) -> Amount:
    if value == "adaptive":
        return "adaptive"
    if isinstance(value, str):
        value = fraction(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
        return value
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    raise ConfigError(f"write a count, a share from 0.0 to 1.0, or adaptive, got {quoted(value)}")


def _schedule(value: object) -> object:
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(f"a schedule maps layers to how many tokens stay, got {quoted(value)}")
    layers = [depth_key(layer) for layer in value]
    if len(set(layers)) < len(layers):
        raise ConfigError(f"a schedule names each layer once, got {quoted(value)}")
    return {layer: _amount(amount) for layer, amount in zip(layers, value.values())}


_SCHEDULE_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "anyOf": [{"type": "number", "minimum": 0, "maximum": MOST_TOKENS}, {"type": "string"}]
    },
}
Schedule = Annotated[
    dict[int | float, Amount], BeforeValidator(_schedule), WithJsonSchema(_SCHEDULE_SCHEMA)
]


class RankedConfig(StrategyConfig):
    """Settings of reduction by rank."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"share_of", "at_least", "longer_than", "missing_layers"}
    )
    schedule: Schedule = Field(
        description="layer -> how many tokens go into it. A layer is an index or, with a dot, a "
        "share of the depth (rounded down); tokens are a count, or with a dot or a slash a share "
        "of those that entered the LLM, in plain floats like the released codes (0.29 of 100 "
        "rounded down is 28), or `adaptive` where the ranker knows how many"
    )
    ranker: Slot[TokenRanker] = Field(
        "last-query", validate_default=True, description="what scores the tokens"
    )
    merger: Slot[LayerMerger] = Field(
        "drop", validate_default=True, description="what becomes of the others"
    )
    rounding: Rounding = Field(
        "round", description="of a share of tokens; `round` takes halves to even"
    )
    quota: Literal["prompt", "group"] = Field(
        "prompt",
        description="`group`: the schedule holds for each group of tokens, by default a frame",
    )
    newlines: Literal["keep", "rank"] = Field(
        "keep", description="`rank` counts and ranks newline tokens like visual ones"
    )
    drop_at_least: int = Field(
        0,
        ge=0,
        le=MOST_TOKENS,
        description="tokens of a quota that go at every step even if the schedule would keep all; "
        "1 in SparseVLM's release",
    )
    share_of: Literal["entered", "current"] = Field(
        "entered",
        description="what shares of tokens refer to: those that entered the LLM, or those that are "
        "left at the step",
    )
    at_least: int = Field(
        0, ge=0, le=MOST_TOKENS, description="tokens of a quota that stay at every step"
    )
    longer_than: int = Field(
        0,
        ge=0,
        le=MOST_TOKENS,
        description="prompts of at most so many tokens, text included, are left whole; 576 in "
        "V2Drop's release",
    )
    missing_layers: Literal["refuse", "skip"] = Field(
        "refuse", description="steps at layers that the LLM lacks are an error, or never come"
    )
    positions: Literal["keep", "renumber", "recount"] = Field(
        "keep",
        description="position ids: those the tokens had, or 0, 1, 2, ... anew; `recount` keeps "
        "them and counts the tokens that are written from how many are left",
    )
    cut_cache: bool = Field(
        False, description="also drop the keys and values of the dropped tokens in earlier layers"
    )
    unmasked_before: bool = Field(
        False,
        description="the layer before lets every token of the prompt see every other one, which "
        "happens by accident in HoliTom's release",
    )


class RankedReducer(LayerReducer):
    """Rank the visual tokens before some layers, keep the best and merge or drop the others.

    Kept tokens stay in the order of the sequence, text stays whole. Of equal scores the earlier
    token stays. Each image or video is merged by itself. In a shallow model, where shares of the
    depth can fall on one layer, the last of them holds.

    Shapes
    ------
    state.hidden : (tokens, dim)      returns : ``source`` (kept,), ``hidden`` (kept, dim)

    Raises
    ------
    ConfigError
        If the schedule names a layer that the LLM lacks, or ``adaptive`` with a ranker that does
        not know how many; or asks for attention before the first layer.

    Source
    ------
    The loop that FastV, PyramidDrop, SparseVLM, HoliTom and PruneVid share, taken apart. Written
    from our descriptions.
    Differs: by its parts; see the page on the inside of the LLM.
    """

    config: RankedConfig

    def __init__(self, config: RankedConfig) -> None:
        super().__init__(config)
        self.ranker = build(TokenRanker, config.ranker)
        self.merger = build(LayerMerger, config.merger)
        adaptive = "adaptive" in config.schedule.values()
        if adaptive and not self.ranker.counts:
            raise ConfigError(
                f"ranker '{config.ranker.name}' does not know how many tokens should stay",
                ["schedule"],
            )
        if 0 in config.schedule and (self.ranker.reads or config.unmasked_before):
            raise ConfigError("there is no attention yet before layer 0", ["schedule"])

    def steps(self, n_layers: int) -> list[LayerStep]:
        """Return one step before each layer of the schedule."""
        return [
            LayerStep(
                layer, "before", self.ranker.reads, unmasked_before=self.config.unmasked_before
            )
            for layer in sorted(self._amounts(n_layers))
        ]

    def reduce(self, state: LayerState) -> LayerReduction | None:
        """Return the best tokens and all text."""
        eligible = state.visual
        if self.config.newlines == "rank":
            eligible = eligible | state.newline
        candidates = eligible.nonzero()[:, 0]
        entered = self._entered(state, candidates)
        if not len(candidates) or len(state.embeddings) <= self.config.longer_than:
            return None
        ranks = self.ranker.rank(state, candidates).float()
        order = candidates[ranks.argsort(descending=True, stable=True)]
        kept = self._best(state, order, entered)
        if len(kept) == len(candidates):
            return None
        scores = ranks.new_full((len(state.hidden),), -torch.inf)
        scores[candidates] = ranks
        source, hidden = self._merge(state, kept, candidates, scores)
        return LayerReduction(source, hidden, self.config.positions, self.config.cut_cache)

    def _amounts(self, n_layers: int) -> dict[int, Amount]:
        schedule = [
            (key, amount)
            for key, amount in self.config.schedule.items()
            if key < n_layers or self.config.missing_layers == "refuse"
        ]
        try:
            found = [(layer_at(key, n_layers), key, amount) for key, amount in schedule]
        except ConfigError as error:
            raise error.below(["schedule"]) from None
        # Indices go before shares; among each the deeper ones last, so that they hold.
        found.sort(key=lambda item: (item[0], isinstance(item[1], float), item[1]))
        return {layer: amount for layer, _, amount in found}

    def _entered(self, state: LayerState, candidates: Int[Tensor, "candidates"]) -> dict[int, int]:
        """Return how many tokens the shares of each quota refer to, counted at the first step."""
        if "entered" not in state.memory:
            if self.config.quota == "group":
                groups, sizes = state.group[candidates].unique(return_counts=True)
                state.memory["entered"] = dict(zip(groups.tolist(), sizes.tolist()))
            else:
                newlines = len(candidates) - int(state.visual.sum())
                state.memory["entered"] = {0: state.n_visual + newlines}
        return state.memory["entered"]

    def _best(
        self, state: LayerState, order: Int[Tensor, "candidates"], entered: Mapping[int, int]
    ) -> Int[Tensor, "kept"]:
        """Return the first of every quota, in the order of the ranking."""
        amount = self._amounts(state.n_layers)[state.layer]
        group = torch.zeros_like(order)
        if self.config.quota == "group":
            group = state.group[order]
        stays = torch.zeros_like(order, dtype=torch.bool)
        for name in group.unique().tolist():
            members = (group == name).nonzero()[:, 0]
            if isinstance(amount, str):
                count = self.ranker.n_kept(state, order[members])
            else:
                total = len(members)
                if self.config.share_of == "entered":
                    total = entered.get(name, total)
                count = self._count(amount, total)
            most = len(members) - self.config.drop_at_least
            stays[members[: max(0, self.config.at_least, min(count, most))]] = True
        return order[stays]

    def _count(self, amount: int | float, total: int) -> int:
        if isinstance(amount, int):
            return amount
        return int(_ROUND[self.config.rounding](total * amount))  # plain floats, as released

    def _merge(
        self,
        state: LayerState,
        kept: Int[Tensor, "kept"],
        candidates: Int[Tensor, "candidates"],
        scores: Float[Tensor, "tokens"],
    ) -> tuple[Int[Tensor, "left"], Float[Tensor, "left dim"]]:
        """Merge clip by clip; return where every token comes from, and what it is now."""
        gone = torch.zeros_like(state.visual)
        gone[candidates] = True
        gone[kept] = False
        hidden = state.hidden.clone()
        stays = (~gone).nonzero()[:, 0]
        source, place, parts = [stays], [2 * stays], [hidden]
        for clip in state.clip[gone].unique().tolist():
            mine = state.clip == clip
            chosen, dropped = kept[mine[kept]], (gone & mine).nonzero()[:, 0]
            after, made = self.merger.merge(state, chosen, dropped, scores)
            hidden[chosen] = after
            end = 2 * candidates[mine[candidates]][-1] + 1  # between two tokens of the state
            source.append(stays.new_full((len(made),), -1))
            place.append(end.expand(len(made)))
            parts.append(made)
        parts[0] = hidden[stays]
        order = torch.cat(place).argsort(stable=True)
        return torch.cat(source)[order], torch.cat(parts)[order]
