from dataclasses import replace

import pytest
import torch
from tokenred_methods.dart.ranker import PivotRanker, PivotRankerConfig, choose_pivots

from tests.ranked_cases import ranked
from tokenred import ConfigError, InputError, load_pipeline
from tokenred.testing import layer_state
from tokenred.types import Projections


def state_with(norms=None, **settings):
    """Return a state whose keys have the given L1 norms."""
    state = layer_state(3, (2, 3), before=3, after=4, **settings)
    if norms is None:
        return state
    keys = norms[None, :, None]
    return replace(state, projections=lambda *args, **kwargs: Projections(keys, keys, 1.0))


def n_left(state, **settings):
    """Return how many of the 18 visual tokens stay."""
    ranker = {"name": "far-from-pivots", **settings}
    reduction = ranked({1: "adaptive"}, ranker=ranker).reduce(state)
    return int(state.visual.sum()) if reduction is None else len(reduction.source) - 7


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"tokens": 11, "exact": True}, 11),
        ({"tokens": 2, "exact": True}, 2),
        ({"share": 0.5}, 9),
        ({"tokens": 8, "exact": False}, 4 + 8),
        ({"tokens": 11, "exact": False}, 4 + 8),
        ({"tokens": 7, "exact": False}, 4),
        ({"tokens": 100}, 18),
    ],
)
def test_how_many_stay(settings, left):
    assert n_left(state_with(), **settings) == left


def test_the_largest_keys_are_pivots_and_the_largest_chooses_first():
    norms = torch.zeros(25)
    norms[[4, 9, 22, 1]] = torch.tensor([2.0, 5.0, 3.0, 100.0])  # 1 is text before the video
    state = state_with(norms)
    candidates = state.visual.nonzero()[:, 0]
    config = PivotRankerConfig(image_pivots=2, text_pivots=1)
    assert choose_pivots(state, candidates, config).tolist() == [9, 22, 4]


def test_as_released_positions_decide_which_pivot_chooses_first():
    norms = torch.zeros(25)
    norms[[4, 9, 22]] = torch.tensor([2.0, 5.0, 3.0])
    state = state_with(norms)
    candidates = state.visual.nonzero()[:, 0]
    config = PivotRankerConfig(image_pivots=2, text_pivots=1, order="hash")
    orders = [
        choose_pivots(replace(state, origin=state.origin + shift), candidates, config).tolist()
        for shift in (0, 3, 10)
    ]
    assert all(sorted(order) == [4, 9, 22] for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_duplicates_of_a_pivot_leave_first():
    norms = torch.zeros(25)
    norms[3] = 1.0
    state = state_with(norms)
    hidden = state.hidden.clone()
    hidden[4:8] = 2 * hidden[3]
    state = replace(state, hidden=hidden, final_norm=lambda states: states)
    config = PivotRankerConfig(image_pivots=1, text_pivots=0, tokens=14)
    candidates = state.visual.nonzero()[:, 0]
    scores = PivotRanker(config).rank(state, candidates)
    last = candidates[scores.argsort(descending=True, stable=True)][14:]
    assert last.tolist() == [4, 5, 6, 7]


def test_too_few_tokens_are_an_error_as_released():
    few = layer_state(3, (2, 3), after=2)
    with pytest.raises(InputError, match="4 pivots should be chosen from"):
        n_left(few, too_few="refuse", exact=False)
    with pytest.raises(InputError, match="only 14 are left"):
        n_left(state_with(), too_few="refuse", exact=False, share=1.0)


def test_without_pivots_there_is_nothing_to_choose():
    with pytest.raises(ConfigError, match="at least one pivot"):
        n_left(state_with(), image_pivots=0, text_pivots=0)


def test_the_preset_counts_pivots():
    dart, released = (
        load_pipeline(name).inside_llm.reducers[0][1] for name in ("dart", "dart-released")
    )
    state = layer_state(8, (9, 9), after=8)
    everything = state.visual.nonzero()[:, 0]
    assert dart.ranker.n_kept(state, everything) == round(0.222 * 648)
    assert released.ranker.n_kept(state, everything) == 132
