"""What every cost term has to satisfy."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from hypothesis import strategies as st

from tokenred.interfaces import CostTerm
from tokenred.testing._run import Check, collect, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import token_groups
from tokenred.types import TokenGroup

Pair = tuple[TokenGroup, TokenGroup]


def cost_term_checks(term: CostTerm) -> Iterator[Check]:
    """Yield the contract of a cost term as named checks without arguments."""
    return collect(term, _BODIES)


def is_a_cost_term(term: CostTerm) -> None:
    """The object has the interface."""
    expect(isinstance(term, CostTerm), f"{term!r} has no `cost`")


def prices_every_pair(term: CostTerm) -> None:
    """The cost has one finite entry for every source and anchor of every item of the batch."""

    def body(pair: Pair) -> None:
        cost = term.cost(*pair)
        wanted = (*pair[0].times.shape, pair[1].times.shape[-1])
        expect(cost.shape == wanted, f"a cost of shape {tuple(cost.shape)}, expected {wanted}")
        expect_finite(cost, "the cost")

    for_all(_pairs((2,)), body)


def batch_equals_loop(term: CostTerm) -> None:
    """A price does not depend on batch mates."""

    def body(pair: Pair) -> None:
        together = term.cost(*pair)
        for item in range(2):
            alone = term.cost(*(_take(group, item) for group in pair))
            expect_close(together[item], alone, f"item {item} of the batch")

    for_all(_pairs((2,)), body)


def permuting_tokens_permutes_prices(term: CostTerm) -> None:
    """A price does not depend on a token's place in the list."""

    def body(pair: Pair) -> None:
        sources, anchors = pair
        cost = term.cost(sources, anchors)
        moved = term.cost(_flip(sources), _flip(anchors))
        expect_close(moved, cost.flip(-1, -2), "the cost of the reversed lists")

    for_all(_pairs(()), body)


def half_precision_gives_no_nan(term: CostTerm) -> None:
    """Half-precision features are priced finitely, in float32."""

    def body(pair: Pair) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            half = (replace(group, features=group.features.to(dtype)) for group in pair)
            cost = term.cost(*half)
            expect_finite(cost, f"the cost of {dtype} features")
            expect(cost.dtype == torch.float32, f"the cost of {dtype} features is {cost.dtype}")

    for_all(_pairs(()), body)


def empty_features_give_no_nan(term: CostTerm) -> None:
    """Tokens that are all zero have a finite price."""

    def body(pair: Pair) -> None:
        zero = (replace(group, features=torch.zeros_like(group.features)) for group in pair)
        expect_finite(term.cost(*zero), "the cost of zero features")

    for_all(_pairs(()), body)


def _pairs(batch: tuple[int, ...]) -> st.SearchStrategy[Pair]:
    return st.tuples(token_groups(batch=batch), token_groups(batch=batch))


def _take(group: TokenGroup, item: int) -> TokenGroup:
    return TokenGroup(group.features[item], group.positions[item], group.times[item])


def _flip(group: TokenGroup) -> TokenGroup:
    return TokenGroup(group.features.flip(-2), group.positions.flip(-2), group.times.flip(-1))


_BODIES = (
    is_a_cost_term,
    prices_every_pair,
    batch_equals_loop,
    permuting_tokens_permutes_prices,
    half_precision_gives_no_nan,
    empty_features_give_no_nan,
)
