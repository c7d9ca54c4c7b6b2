"""What every token ranker and every layer merger has to satisfy."""

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import LayerMerger, TokenRanker
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.inside import READS, layer_states, places, with_attention
from tokenred.testing.strategies import SEEDS
from tokenred.types import LayerState

Choice = tuple[LayerState, int, float]
"""A prompt, a seed for the scores of its visual tokens, and the share of them that is kept."""


def reads_what_a_step_gives(ranker: TokenRanker) -> None:
    """``reads`` holds only what a step can give."""
    expect(ranker.reads <= READS, f"reads {sorted(ranker.reads)}, known are {sorted(READS)}")


def scores_every_candidate(ranker: TokenRanker) -> None:
    """There is one finite score for each candidate, whatever else is in the prompt."""

    def body(state: LayerState) -> None:
        candidates = places(state.visual)
        scores = ranker.rank(state, candidates)
        expect(scores.shape == candidates.shape, f"scores of shape {tuple(scores.shape)}")
        expect(scores.is_floating_point(), f"scores of dtype {scores.dtype}")
        expect_finite(scores, "the scores")

    for_all(layer_states(), body)


def reads_what_it_declares(ranker: TokenRanker) -> None:
    """Nothing is asked of the layer before that ``reads`` does not announce."""

    def body(state: LayerState) -> None:
        ranker.rank(with_attention(state, ranker.reads), places(state.visual))

    for_all(layer_states(), body)


def order_of_candidates_does_not_matter(ranker: TokenRanker) -> None:
    """A token's score does not depend on its place in the list."""

    def body(state: LayerState) -> None:
        candidates = places(state.visual)
        scores = ranker.rank(state, candidates)
        turned = ranker.rank(replace(state, memory={}), candidates.flip(0))
        expect_close(turned.flip(0), scores, "the scores of the reversed list")

    for_all(layer_states(), body)


def ranks_the_same_again(ranker: TokenRanker) -> None:
    """Two runs agree, the state is left alone, the global random state neither read nor moved."""

    def body(state: LayerState) -> None:
        candidates, hidden = places(state.visual), state.hidden.clone()
        before = torch.random.get_rng_state()
        first = ranker.rank(state, candidates)
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            second = ranker.rank(replace(state, memory={}), candidates)
        expect(torch.equal(first, second), "two runs differ")
        expect(torch.equal(ranker.rank(state, candidates), first), "memory changes the scores")
        expect(torch.equal(state.hidden, hidden), "the hidden states were changed")

    for_all(layer_states(), body)


def ranks_in_half_precision(ranker: TokenRanker) -> None:
    """Hidden states in half precision give finite scores."""

    def body(state: LayerState) -> None:
        expect_finite(ranker.rank(state, places(state.visual)), "the scores")

    for_all(layer_states(dtype=torch.bfloat16), body)


def returns_kept_and_made_tokens(merger: LayerMerger) -> None:
    """There is a finite state for each kept token; new ones come only from a merger that makes."""

    def body(choice: Choice) -> None:
        state, kept, dropped, scores = _split(choice)
        hidden = state.hidden.clone()
        after, made = merger.merge(state, kept, dropped, scores)
        expect(after.shape == (len(kept), hidden.shape[1]), f"kept: shape {tuple(after.shape)}")
        expect(made.shape[1:] == hidden.shape[1:], f"made: shape {tuple(made.shape)}")
        expect(len(made) <= len(dropped), f"{len(made)} made of {len(dropped)} dropped")
        expect(merger.makes or not len(made), f"makes is False, {len(made)} tokens are made")
        for values in (after, made):
            expect(values.dtype == hidden.dtype, f"dtype {values.dtype}, expected {hidden.dtype}")
            expect_finite(values, "a hidden state")
        expect(torch.equal(state.hidden, hidden), "the hidden states of the state were changed")

    for_all(_choices(), body)
    for_all(_choices(dtype=torch.bfloat16), body)


def nothing_dropped_changes_nothing(merger: LayerMerger) -> None:
    """When all tokens are kept they stay as they are, and none is made."""

    def body(choice: Choice) -> None:
        state, kept, dropped, scores = _split((*choice[:2], 1.0))
        after, made = merger.merge(state, kept, dropped, scores)
        expect(torch.equal(after, state.hidden[kept]), "a kept token was changed")
        expect(not len(made), f"{len(made)} tokens were made of none")

    for_all(_choices(), body)


def merges_the_same_again(merger: LayerMerger) -> None:
    """Two runs agree; the global random state is neither read nor moved."""

    def body(choice: Choice) -> None:
        before = torch.random.get_rng_state()
        first = merger.merge(*_split(choice))
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            second = merger.merge(*_split(choice))
        expect(all(torch.equal(a, b) for a, b in zip(first, second)), "two runs differ")

    for_all(_choices(), body)


def equal_tokens_stay_equal(merger: LayerMerger) -> None:
    """Averaging equal tokens changes nothing."""

    def body(choice: Choice) -> None:
        state, kept, dropped, scores = _split(choice)
        state = replace(state, hidden=torch.full_like(state.hidden, 2.5))
        for values in merger.merge(state, kept, dropped, scores):
            expect_close(values, torch.full_like(values, 2.5), "equal tokens")

    for_all(_choices(), body)


def averages_stay_in_the_convex_hull(merger: LayerMerger) -> None:
    """Every coordinate stays between those of the tokens that were there."""

    def body(choice: Choice) -> None:
        state, kept, dropped, scores = _split(choice)
        inputs = state.hidden[torch.cat([kept, dropped])]
        for values in merger.merge(state, kept, dropped, scores):
            expect((values <= inputs.amax(0) + 1e-5).all(), "a token left the hull upwards")
            expect((values >= inputs.amin(0) - 1e-5).all(), "a token left the hull downwards")

    for_all(_choices(), body)


def _split(choice: Choice) -> tuple[LayerState, Tensor, Tensor, Tensor]:
    """Return the arguments of ``merge``: kept tokens by rank, dropped ones by place."""
    state, seed, share = choice
    candidates = places(state.visual)
    drawn = torch.rand(len(candidates), generator=torch.Generator().manual_seed(seed))
    scores = torch.full((len(state.hidden),), -torch.inf)
    scores[candidates] = drawn
    kept = candidates[drawn.argsort(descending=True)][: round(share * len(candidates))]
    dropped = candidates[~torch.isin(candidates, kept)]
    return state, kept, dropped, scores


def _choices(dtype: torch.dtype = torch.float32) -> st.SearchStrategy[Choice]:
    return st.tuples(layer_states(dtype=dtype), SEEDS, st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0)))


_RANKER = (
    reads_what_a_step_gives,
    scores_every_candidate,
    reads_what_it_declares,
    order_of_candidates_does_not_matter,
    ranks_the_same_again,
    ranks_in_half_precision,
)
_MERGER = (
    returns_kept_and_made_tokens,
    nothing_dropped_changes_nothing,
    merges_the_same_again,
)
_AVERAGES = (equal_tokens_stay_equal, averages_stay_in_the_convex_hull)


def contract(strategy: TokenRanker | LayerMerger) -> Bodies:
    """Return what holds for a ranker, or a merger."""
    if isinstance(strategy, TokenRanker):
        return _RANKER
    return (*_MERGER, *(_AVERAGES if strategy.averages else ()))
