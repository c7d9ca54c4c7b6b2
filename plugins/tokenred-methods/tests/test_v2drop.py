from dataclasses import replace

import pytest
import torch
from property.cases import make

from tests.ranked_cases import ranked, run
from tokenred import load_pipeline
from tokenred.testing import layer_state


def test_what_the_layer_hardly_changed_leaves():
    state = layer_state(1, (2, 2), before=1, after=1)
    before = state.hidden.clone()
    before[1:5] -= torch.tensor([0.1, 3.0, 0.2, 2.0])[:, None]
    state = replace(state, previous_input=lambda: before)
    reduction = ranked({1: 0.5}, ranker="variation").reduce(state)
    assert reduction.source.tolist() == [0, 2, 4, 5]
    scores = make("token ranker", "variation").rank(state, torch.tensor([2]))
    assert float(scores) == pytest.approx(3 * state.hidden.shape[1] ** 0.5, rel=1e-4)


def left_of(n, **settings):
    """Return how many visual tokens are left after each step."""
    reducer = ranked({1: 0.61, 2: 0.9, 3: 0.0}, rounding="floor", ranker="random", **settings)
    state = layer_state(1, (1, n), before=1, after=1)
    return [len(each.source) - 2 for each in run(reducer, state) if each is not None]


def test_shares_of_what_is_left_are_rounded_at_every_step():
    assert left_of(21, share_of="current", at_least=1) == [12, 10, 1]
    assert left_of(21, at_least=3)[-1] == 3


@pytest.mark.parametrize(("longer_than", "reduced"), [(22, True), (23, False), (24, False)])
def test_short_prompts_are_left_alone(longer_than, reduced):
    assert bool(left_of(21, longer_than=longer_than)) == reduced


def test_presets_end_with_one_token():
    reducer = load_pipeline("v2drop").inside_llm.reducers[0][1]
    state = layer_state(4, (3, 3), n_layers=28)
    counts = [len(each.source) for each in run(reducer, state) if each is not None]
    text = int((~state.visual).sum())
    assert [count - text for count in counts] == [18, 9, 1]
