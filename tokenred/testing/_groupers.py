"""What every token grouper has to satisfy."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import TokenGrouper
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import SEEDS, visual_tokens
from tokenred.testing.videos import half, without_a_say
from tokenred.types import Grouping, VisualTokens

Case = tuple[VisualTokens, int]
"""Tokens and a seed."""
Cues = Mapping[str, int] | None


def heads_are_distinct_and_alive(grouper: TokenGrouper, *, cues: Cues) -> None:
    """Every group has a token of its own to stand for it, and that token is alive."""

    def body(case: Case) -> None:
        head = _group(grouper, *case).head
        alive = case[0].keep.flatten()
        expect(((head >= 0) & (head < len(alive))).all(), "a head out of range")
        expect(len(head.unique()) == len(head), "a token is the head of two groups")
        expect(alive[head].all(), "a token that was dropped before is a head")
        expect(len(head) > 0, "no group at all")

    for_all(_cases(grouper, cues, drop=True), body)


def map_is_finite_and_of_living_tokens(grouper: TokenGrouper, *, cues: Cues) -> None:
    """The map has a row a group and a column a token; columns of dropped tokens are empty."""

    def body(case: Case) -> None:
        tokens = case[0]
        weights = _weights(_group(grouper, *case), tokens)
        dropped = ~tokens.keep.flatten()
        expect(not weights[:, dropped].any(), "a token that was dropped before is in a group")
        expect((weights != 0).any(-1).all(), "a group of nothing")

    for_all(_cases(grouper, cues, drop=True), body)


def dropped_tokens_have_no_say(grouper: TokenGrouper, *, cues: Cues) -> None:
    """What tokens look like that are no longer alive changes nothing."""

    def body(case: Case) -> None:
        tokens, seed = case
        plain, other = (_group(grouper, each, seed) for each in (tokens, without_a_say(tokens)))
        _expect_same(plain, other, tokens, "other dropped tokens change the groups")

    for_all(_cases(grouper, cues, drop=True), body)


def is_reproducible(grouper: TokenGrouper, *, cues: Cues) -> None:
    """The same generator state gives the same groups, and the tokens are left alone."""

    def body(case: Case) -> None:
        tokens, seed = case
        features = tokens.features.clone()
        first, second = (_group(grouper, tokens, seed) for _ in range(2))
        expect(torch.equal(tokens.features, features), "the features were changed")
        _expect_same(first, second, tokens, "two runs differ")

    for_all(_cases(grouper, cues), body)


def draws_from_its_generator_only(grouper: TokenGrouper, *, cues: Cues) -> None:
    """The global random state is neither read nor moved."""

    def body(case: Case) -> None:
        tokens, seed = case
        before = torch.random.get_rng_state()
        first = _group(grouper, tokens, seed)
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            second = _group(grouper, tokens, seed)
        _expect_same(first, second, tokens, "the global state changes the groups")

    for_all(_cases(grouper, cues), body)


def works_in_half_precision(grouper: TokenGrouper, *, cues: Cues) -> None:
    """Half-precision features and cues are accepted, and the weights are not rounded to them."""

    def body(case: Case) -> None:
        tokens, seed = case
        found = _group(grouper, half(tokens), seed)
        expect(found.map.dtype == torch.float32, f"a map of {found.map.dtype}")
        _weights(found, tokens)

    for_all(_cases(grouper, cues), body)


def equal_tokens_are_accepted(grouper: TokenGrouper, *, cues: Cues) -> None:
    """Tokens that are all equal, or all zero, give a finite map."""

    def body(case: Case) -> None:
        tokens, seed = case
        for value in (0.0, 2.5):
            equal = replace(tokens, features=torch.full_like(tokens.features, value))
            _weights(_group(grouper, equal, seed), tokens)

    for_all(_cases(grouper, cues), body)


def weights_of_a_group_sum_to_one(grouper: TokenGrouper, *, cues: Cues) -> None:
    """A group is an average of its tokens: no weight is negative, and all sum to one."""

    def body(case: Case) -> None:
        weights = _weights(_group(grouper, *case), case[0])
        expect((weights >= 0).all(), "a negative weight")
        total = weights.sum(-1)
        expect_close(total, torch.ones_like(total), "the weights of a group")

    for_all(_cases(grouper, cues, drop=True), body)


def _group(grouper: TokenGrouper, tokens: VisualTokens, seed: int) -> Grouping:
    found = grouper.group(tokens, generator=torch.Generator().manual_seed(seed))
    expect(isinstance(found, Grouping), f"a {type(found).__name__} instead of a Grouping")
    head, map_ = found.head, found.map
    expect(head.ndim == 1 and not head.is_floating_point(), "the heads are no list of places")
    expect(map_.is_sparse, "the map is dense")
    wanted = (len(head), tokens.keep.numel())
    expect(map_.shape == wanted, f"a map of shape {tuple(map_.shape)}, expected {wanted}")
    return found


def _weights(found: Grouping, tokens: VisualTokens) -> Tensor:
    weights = found.map.to_dense()
    expect_finite(weights, "the map")
    return weights


def _expect_same(first: Grouping, second: Grouping, tokens: VisualTokens, fault: str) -> None:
    expect(torch.equal(first.head, second.head), fault)
    expect_close(_weights(second, tokens), _weights(first, tokens), fault)


@st.composite
def _cases(draw: st.DrawFn, grouper: TokenGrouper, cues: Cues, *, drop: bool = False) -> Case:
    frames = draw(st.sampled_from((3, 1, 2, 4)))
    tokens = visual_tokens(grouper.needs, frames=frames, drop=drop, scenes=True, cues=cues)
    return draw(tokens), draw(SEEDS)


_GENERAL = (
    heads_are_distinct_and_alive,
    map_is_finite_and_of_living_tokens,
    dropped_tokens_have_no_say,
    is_reproducible,
    draws_from_its_generator_only,
    works_in_half_precision,
    equal_tokens_are_accepted,
)
_AVERAGES = (weights_of_a_group_sum_to_one,)


def contract(grouper: TokenGrouper) -> Bodies:
    """Return what holds for it."""
    return (*_GENERAL, *(_AVERAGES if grouper.averages else ()))
