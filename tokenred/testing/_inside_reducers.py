"""What every layer reducer and every cache pruner has to satisfy."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.errors import ConfigError
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.testing._run import Bodies, expect, expect_finite, for_all
from tokenred.testing.inside import READS, cache_states, layer_states, places, through_layers
from tokenred.testing.strategies import SEEDS
from tokenred.types import CacheState, LayerReduction, LayerState

DEPTHS = (2, 3, 4, 7, 28, 32, 80)


def steps_are_in_order_and_inside(reducer: LayerReducer) -> None:
    """Steps name layers of the LLM, each place once, in order; or the depth is refused."""
    for depth in DEPTHS:
        try:
            steps = list(reducer.steps(depth))
        except ConfigError:
            continue
        found = [(step.layer, step.point) for step in steps]
        expect(found == sorted(set(found)), f"steps out of order or twice: {found}")
        expect(all(0 <= layer < depth for layer, _ in found), f"{depth} layers, steps {found}")
        for step in steps:
            expect(step.reads <= READS, f"reads {sorted(step.reads)}, known are {sorted(READS)}")
            first = (step.layer, step.point) == (0, "before")
            expect(not (first and step.reads), "there is nothing to read before the first layer")


def keeps_text_and_order(reducer: LayerReducer) -> None:
    """All text goes on, in order; only visual and newline tokens go or are made."""

    def body(state: LayerState) -> None:
        for before, reduction in _run(reducer, state):
            if reduction is None:
                continue
            source = reduction.source
            expect(source.ndim == 1 and not source.is_floating_point(), "source is no index")
            old = source[source >= 0]
            expect((source >= -1).all() and (old < len(before.hidden)).all(), "out of range")
            expect((old.diff() > 0).all(), "tokens change places, or come twice")
            text = places(before.clip < 0)
            expect(torch.isin(text, old).all(), "a text token is lost")
            expect(len(source) <= len(before.hidden), "the sequence grew")

    for_all(layer_states(), body)


def gives_every_token_a_state(reducer: LayerReducer) -> None:
    """Hidden states are finite, one for each token, in the dtype that came; text is untouched."""

    def body(state: LayerState) -> None:
        for before, reduction in _run(reducer, state):
            if reduction is None:
                continue
            source, hidden = reduction.source, reduction.hidden
            expect(hidden is not None or bool((source >= 0).all()), "a new token has no state")
            if hidden is None:
                continue
            wanted = (len(source), before.hidden.shape[1])
            expect(hidden.shape == wanted, f"shape {tuple(hidden.shape)}, expected {wanted}")
            expect(hidden.dtype == before.hidden.dtype, f"dtype {hidden.dtype}")
            expect_finite(hidden, "a hidden state")
            text = (source >= 0) & (before.clip[source.clamp_min(0)] < 0)
            same = torch.equal(hidden[text], before.hidden[source[text]])
            expect(same, "the state of a text token was changed")

    for_all(layer_states(), body)
    for_all(layer_states(dtype=torch.bfloat16), body)


def leaves_text_alone(reducer: LayerReducer) -> None:
    """A prompt without visual tokens stays as it is."""

    def body(state: LayerState) -> None:
        for before, reduction in _run(reducer, state):
            kept = None if reduction is None else reduction.source.tolist()
            whole = kept is None or kept == list(range(len(before.hidden)))
            expect(whole, f"of {len(before.hidden)} text tokens {kept} are left")

    for_all(layer_states(visual=False), body)


def reduces_the_same_again(reducer: LayerReducer) -> None:
    """Two rows do not share memory; states are left alone, and so is the global random state."""

    def body(state: LayerState) -> None:
        before = torch.random.get_rng_state()
        first = list(_run(reducer, state))
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        copies = [seen.hidden.clone() for seen, _ in first]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            second = list(_run(reducer, state))
        for (seen, one), (_, other), copy in zip(first, second, copies):
            expect(torch.equal(seen.hidden, copy), "the hidden states of a state were changed")
            expect((one is None) == (other is None), "two runs differ")
            if one is not None and other is not None:
                expect(torch.equal(one.source, other.source), "two runs differ")

    for_all(layer_states(), body)


def acts_between_two_layers(pruner: CachePruner) -> None:
    """Its layer is one that has a layer before it."""
    for depth in DEPTHS:
        try:
            layer = pruner.layer(depth)
        except ConfigError:
            continue
        expect(1 <= layer < depth, f"layer {layer} of {depth}")


def looks_at_all_but_visual_tokens(pruner: CachePruner) -> None:
    """Indices rise, and no token but visual ones is left out, at any step."""

    def body(states: list[CacheState]) -> None:
        for state in states:
            kept = pruner.prune(state)
            if kept is None:
                continue
            expect(kept.ndim == 1 and not kept.is_floating_point(), "the choice is no index")
            expect((kept.diff() > 0).all(), "indices do not rise")
            expect(((kept >= 0) & (kept < len(state.visual))).all(), "an index out of range")
            others = places(~state.visual)
            expect(torch.isin(others, kept).all(), "a token that is not visual is left out")

    for_all(_decodings(), body)


def prunes_the_same_again(pruner: CachePruner) -> None:
    """Two answers do not share memory, and the global random state is left alone."""

    def body(states: list[CacheState]) -> None:
        before = torch.random.get_rng_state()
        first = [_listed(pruner.prune(state)) for state in states]
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        memory: dict[str, object] = {}
        second = [_listed(pruner.prune(replace(state, memory=memory))) for state in states]
        expect(first == second, "two runs differ")

    for_all(_decodings(), body)


def _run(
    reducer: LayerReducer, state: LayerState
) -> Iterator[tuple[LayerState, LayerReduction | None]]:
    try:
        reducer.steps(state.n_layers)
    except ConfigError:
        state = replace(state, n_layers=max(DEPTHS))
    return through_layers(reducer, state)


def _listed(kept: Tensor | None) -> list[int] | None:
    return None if kept is None else kept.tolist()


def _decodings() -> st.SearchStrategy[list[CacheState]]:
    return st.builds(
        lambda n, change, seed: cache_states(4, n_visual=n, change=change, seed=seed),
        st.sampled_from((0, 1, 2, 11)),
        st.sampled_from((0.0, 0.1, 1.0)),
        SEEDS,
    )


_REDUCER = (
    steps_are_in_order_and_inside,
    keeps_text_and_order,
    gives_every_token_a_state,
    leaves_text_alone,
    reduces_the_same_again,
)
_PRUNER = (acts_between_two_layers, looks_at_all_but_visual_tokens, prunes_the_same_again)


def contract(strategy: LayerReducer | CachePruner) -> Bodies:
    """Return what holds for a reducer, or a pruner."""
    return _REDUCER if isinstance(strategy, LayerReducer) else _PRUNER
