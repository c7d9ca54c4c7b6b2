"""The contracts of what works inside the LLM refuse what is broken."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase
from profiles import examples
from property.cases import make

from tokenred.interfaces import CachePruner, LayerMerger, LayerReducer, TokenRanker
from tokenred.testing import _run, layer_state, strategy_checks, through_layers
from tokenred.testing.inside import after_reduction
from tokenred.types import LayerReduction, LayerStep


@pytest.fixture(autouse=True)
def any_example_will_do(monkeypatch):
    """Nobody reads the examples that break what is broken, so they need not be small."""
    monkeypatch.setattr(_run, "PHASES", (Phase.generate,))
    monkeypatch.setattr(_run, "EXAMPLES", examples(40))


def broken(checks: Any) -> set[str]:
    names = set()
    for check in checks:
        try:
            check()
        except AssertionError:
            names.add(check.name)
    return names


class Ranker(TokenRanker):
    def rank(self, state, candidates):
        return -candidates.float()


class Merger(LayerMerger):
    def merge(self, state, kept, dropped, scores):
        return state.hidden[kept], state.hidden[:0]


class Reducer(LayerReducer):
    def steps(self, n_layers):
        return [LayerStep(1)]

    def reduce(self, state):
        stays = ~state.visual
        stays[state.visual.nonzero()[:1, 0]] = True
        return LayerReduction(stays.nonzero()[:, 0])


class Pruner(CachePruner):
    def layer(self, n_layers):
        return 1

    def prune(self, state):
        return (~state.visual).nonzero()[:, 0]


def but(plain: type, **changes: Any) -> Any:
    return type("Broken", (plain,), changes)()


@pytest.mark.parametrize("plain", [Ranker, Merger, Reducer, Pruner])
def test_what_is_plain_is_accepted(plain: Any) -> None:
    assert broken(strategy_checks(plain)) == set()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"reads": frozenset({"logits"})}, "reads_what_a_step_gives"),
        ({"rank": lambda s, x, c: -c.float()[:-1]}, "scores_every_candidate"),
        ({"rank": lambda s, x, c: c.float() / 0}, "scores_every_candidate"),
        ({"rank": lambda s, x, c: x.attention(c).mean((0, 1))[c]}, "reads_what_it_declares"),
        (
            {"rank": lambda s, x, c: x.probe(c, layer="previous").mean((0, 1))[c]},
            "reads_what_it_declares",
        ),
        (
            {"rank": lambda s, x, c: torch.arange(len(c)).float()},
            "order_of_candidates_does_not_matter",
        ),
        ({"rank": lambda s, x, c: x.hidden.mul_(2)[c, 0]}, "ranks_the_same_again"),
        ({"rank": lambda s, x, c: torch.randperm(99)[c].float()}, "ranks_the_same_again"),
    ],
)
def test_a_broken_ranker_is_refused(changes: Any, fault: str) -> None:
    assert fault in broken(strategy_checks(but(Ranker, **changes)))


@pytest.mark.parametrize(
    ("merge", "fault"),
    [
        (lambda s, x, k, d, c: (x.hidden[k], x.hidden[d]), "returns_kept_and_made_tokens"),
        (lambda s, x, k, d, c: (x.hidden[k[1:]], x.hidden[:0]), "returns_kept_and_made_tokens"),
        (lambda s, x, k, d, c: (x.hidden[k].float(), x.hidden[:0]), "returns_kept_and_made_tokens"),
        (lambda s, x, k, d, c: (x.hidden[k] + 1, x.hidden[:0]), "nothing_dropped_changes_nothing"),
        (
            lambda s, x, k, d, c: (x.hidden[k] + x.hidden[d].sum(0), x.hidden[:0]),
            "equal_tokens_stay_equal",
        ),
        (
            lambda s, x, k, d, c: (x.hidden[k] * 1.5, x.hidden[:0]),
            "averages_stay_in_the_convex_hull",
        ),
    ],
)
def test_a_broken_merger_is_refused(merge: Any, fault: str) -> None:
    assert fault in broken(strategy_checks(but(Merger, merge=merge)))


def test_a_sum_is_accepted_where_no_average_is_promised() -> None:
    def add(self, state, kept, dropped, scores):
        return state.hidden[kept] + state.hidden[dropped].sum(0), state.hidden[:0]

    found = broken(strategy_checks(but(Merger, merge=add, averages=False)))
    assert found == set()


def _places(keep):
    return LayerReduction(keep.nonzero()[:, 0])


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"steps": lambda s, n: [LayerStep(n)]}, "steps_are_in_order_and_inside"),
        ({"steps": lambda s, n: [LayerStep(1), LayerStep(0)]}, "steps_are_in_order_and_inside"),
        (
            {"steps": lambda s, n: [LayerStep(0, reads=frozenset({"attention"}))]},
            "steps_are_in_order_and_inside",
        ),
        ({"reduce": lambda s, x: _places(x.visual)}, "keeps_text_and_order"),
        (
            {"reduce": lambda s, x: LayerReduction(torch.arange(len(x.hidden)).flip(0))},
            "keeps_text_and_order",
        ),
        (
            {"reduce": lambda s, x: LayerReduction(torch.arange(len(x.hidden)), x.hidden + 1)},
            "gives_every_token_a_state",
        ),
        (
            {"reduce": lambda s, x: LayerReduction(torch.arange(-1, len(x.hidden) - 1))},
            "gives_every_token_a_state",
        ),
        ({"reduce": lambda s, x: _places(x.clip >= 0)}, "leaves_text_alone"),
    ],
)
def test_a_broken_reducer_is_refused(changes: Any, fault: str) -> None:
    assert fault in broken(strategy_checks(but(Reducer, **changes)))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layer": lambda s, n: 0}, "acts_between_two_layers"),
        ({"layer": lambda s, n: n}, "acts_between_two_layers"),
        ({"prune": lambda s, x: x.visual.nonzero()[:, 0]}, "looks_at_all_but_visual_tokens"),
        (
            {"prune": lambda s, x: torch.arange(len(x.visual)).flip(0)},
            "looks_at_all_but_visual_tokens",
        ),
    ],
)
def test_a_broken_pruner_is_refused(changes: Any, fault: str) -> None:
    assert fault in broken(strategy_checks(but(Pruner, **changes)))


def test_the_synthetic_attention_is_causal_and_sums_to_one() -> None:
    state = layer_state(2, (2, 2))
    n = len(state.hidden)
    rows = state.attention(torch.arange(n))
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:2]))
    assert not rows.triu(1).any()
    assert torch.equal(rows, state.probe(torch.arange(n)))
    free = state.probe(torch.arange(n), layer="previous", rotary=False, causal=False)
    assert free.triu(1).any()


def test_the_state_after_a_step_is_what_an_engine_hands_on() -> None:
    state = layer_state(2, (2, 2), clips=2, newlines="end")
    reducer = make("layer reducer", "ranked", schedule={1: 3}, merger="recycle")
    ((seen, reduction),) = through_layers(reducer, state)
    after = after_reduction(seen, reduction)
    made = after.origin == -1
    assert made.any()
    assert after.visual[made].all()
    assert (after.clip[made] >= 0).all()
    assert int((after.visual & ~made).sum()) == 3
    assert after.last == len(after.hidden) - 1
    assert after.origin[~made].tolist() == reduction.source[~made].tolist()
    assert replace(after, memory={}).n_visual == 16
