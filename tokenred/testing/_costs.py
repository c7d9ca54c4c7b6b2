"""What every cost term has to satisfy."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import CostTerm
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import token_groups
from tokenred.types import TokenGroup

Pair = tuple[TokenGroup, TokenGroup]
Cues = Mapping[str, int] | None


def needs_cues_of_tokens(term: CostTerm, *, cues: Cues) -> None:
    """``needs`` names cues that have a value for every token."""
    expect("pooler" not in term.needs, "the cue 'pooler' has no value for a token")


def prices_every_pair(term: CostTerm, *, cues: Cues) -> None:
    """The cost has one finite entry for every source and anchor of every item of the batch."""

    def body(pair: Pair) -> None:
        cost = term.cost(*pair)
        wanted = (*pair[0].times.shape, pair[1].times.shape[-1])
        expect(cost.shape == wanted, f"a cost of shape {tuple(cost.shape)}, expected {wanted}")
        expect_finite(cost, "the cost")

    for_all(_pairs(term, cues, (2,)), body)


def batch_equals_loop(term: CostTerm, *, cues: Cues) -> None:
    """A price does not depend on batch mates."""

    def body(pair: Pair) -> None:
        together = term.cost(*pair)
        for item in range(2):
            alone = term.cost(*(_take(group, item) for group in pair))
            expect_close(together[item], alone, f"item {item} of the batch")

    for_all(_pairs(term, cues, (2,)), body)


def permuting_tokens_permutes_prices(term: CostTerm, *, cues: Cues) -> None:
    """A price does not depend on a token's place in the list."""

    def body(pair: Pair) -> None:
        sources, anchors = pair
        cost = term.cost(sources, anchors)
        moved = term.cost(_flip(sources), _flip(anchors))
        expect_close(moved, cost.flip(-1, -2), "the cost of the reversed lists")

    for_all(_pairs(term, cues), body)


def pairwise_prices_do_not_see_other_pairs(term: CostTerm, *, cues: Cues) -> None:
    """``pairwise = True`` promises that a price is the same whatever else is in the groups."""
    pairwise = term.pairwise
    expect(isinstance(pairwise, bool), f"pairwise is {pairwise!r}, not a bool")
    if not pairwise:
        return

    def body(pair: Pair) -> None:
        sources, anchors = pair
        cost = term.cost(sources, anchors)
        half = [slice(None, (n + 1) // 2) for n in cost.shape]
        some = term.cost(_each(sources, lambda v: v[half[0]]), _each(anchors, lambda v: v[half[1]]))
        expect_close(some, cost[half[0], half[1]], "the cost of half of the tokens")

    for_all(_pairs(term, cues), body)


def repeats_change_no_price(term: CostTerm, *, cues: Cues) -> None:
    """``allows_repeats = True`` promises that tokens that come twice change no other price."""
    allows = term.allows_repeats
    expect(isinstance(allows, bool), f"allows_repeats is {allows!r}, not a bool")
    if not allows:
        return

    def body(pair: Pair) -> None:
        sources, anchors = pair
        cost = term.cost(sources, anchors)
        n, m = cost.shape
        twice = term.cost(*(_each(group, lambda v: torch.cat([v, v[:1]])) for group in pair))
        expect_close(twice[:n, :m], cost, "the cost beside repeated tokens")

    for_all(_pairs(term, cues), body)


def half_precision_gives_no_nan(term: CostTerm, *, cues: Cues) -> None:
    """Half-precision features are priced finitely, in float32."""

    def body(pair: Pair) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            cost = term.cost(*(_values(group, partial(Tensor.to, dtype=dtype)) for group in pair))
            expect_finite(cost, f"the cost of {dtype} features")
            expect(cost.dtype == torch.float32, f"the cost of {dtype} features is {cost.dtype}")

    for_all(_pairs(term, cues), body)


def empty_features_give_no_nan(term: CostTerm, *, cues: Cues) -> None:
    """Tokens that are all zero have a finite price."""

    def body(pair: Pair) -> None:
        zero = (_values(group, torch.zeros_like) for group in pair)
        expect_finite(term.cost(*zero), "the cost of zero features")

    for_all(_pairs(term, cues), body)


def _needs(term: CostTerm) -> frozenset[str]:
    return getattr(term, "needs", frozenset())


def _pairs(term: CostTerm, cues: Cues, batch: tuple[int, ...] = ()) -> st.SearchStrategy[Pair]:
    groups = token_groups(_needs(term), batch=batch, cues=cues)
    return st.tuples(groups, groups)


def _values(group: TokenGroup, change: Callable[[Tensor], Tensor]) -> TokenGroup:
    """Change what tokens look like: features and cues."""
    cues = {name: change(cue) for name, cue in group.cues.items()}
    return replace(group, features=change(group.features), cues=cues)


def _each(group: TokenGroup, change: Callable[[Tensor], Tensor]) -> TokenGroup:
    """Change every tensor of a group."""
    assert group.rank is not None
    return TokenGroup(
        change(group.features),
        change(group.positions),
        change(group.times),
        change(group.rank),
        {name: change(cue) for name, cue in group.cues.items()},
    )


def _take(group: TokenGroup, item: int) -> TokenGroup:
    return _each(group, lambda values: values[item])


def _flip(group: TokenGroup) -> TokenGroup:
    return _each(group, lambda values: values.flip(group.times.ndim - 1))


_BODIES = (
    needs_cues_of_tokens,
    prices_every_pair,
    batch_equals_loop,
    permuting_tokens_permutes_prices,
    pairwise_prices_do_not_see_other_pairs,
    repeats_change_no_price,
    half_precision_gives_no_nan,
    empty_features_give_no_nan,
)


def contract(term: CostTerm) -> Bodies:
    """Return what holds for it."""
    return _BODIES
