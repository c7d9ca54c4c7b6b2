"""FitPrune beyond its golden cases."""

from dataclasses import replace

import pytest
import torch
from property.cases import make

from tests.ranked_cases import run
from tokenred import ConfigError
from tokenred.testing import layer_state


def reducer(**settings):
    return make("layer reducer", "drop-table", **settings)


def gone(reduction):
    return int(reduction.source.max()) + 1 - len(reduction.source)


@pytest.mark.parametrize("n_layers", [2, 5, 28, 32, 40])
def test_a_table_carries_over_to_any_depth_and_length(n_layers: int) -> None:
    state = layer_state(3, (4, 4), n_layers=n_layers)
    left = 48 - sum(map(gone, filter(None, run(reducer(drops=60), state))))
    assert left == 48 - round(48 * 449 / 576)


def test_half_of_the_table_holds_at_half_of_the_depth() -> None:
    state = layer_state(1, (4, 5), n_layers=4)
    found = run(reducer(drops=[10, 5], fitted_for=20), state)
    assert [gone(each) for each in found] == [10, 5]
    assert [(s.layer, s.point) for s in reducer(drops=[10, 5]).steps(4)] == [
        (1, "middle"),
        (3, "middle"),
    ]


def test_counts_as_they_are_do_not_fit_deeper_models() -> None:
    with pytest.raises(ConfigError, match="the table has 2 layers, the LLM 3"):
        reducer(drops=[1, 1], fitted_for=None).steps(3)
    assert len(reducer(drops=[1, 1, 1], fitted_for=None).steps(2)) == 2
    with pytest.raises(ConfigError, match="the table has 3 layers, the LLM 2"):
        reducer(drops=[1, 1, 1], same_depth=True).steps(2)


@pytest.mark.parametrize("drops", [65, [], [1, -1], [1.0], "x"])
def test_a_table_that_is_none_is_refused(drops: object) -> None:
    with pytest.raises(ConfigError, match=r"nearest is 60|write a per cent or one count a layer"):
        reducer(drops=drops)


def test_a_token_needs_both_video_and_question() -> None:
    state = layer_state(1, (1, 3), before=1, after=1)
    rows = torch.zeros(2, 5, 5)
    rows[0, 1:4, 1:4] = torch.tensor([0.9, 0.5, 0.1])  # the video looks at the first
    rows[1, 4, 1:4] = torch.tensor([0.1, 0.5, 0.9])  # the question at the last
    state = replace(state, attention=lambda queries: rows[:, queries])
    scores = make("token ranker", "self-cross").rank(state, torch.tensor([1, 2, 3]))
    torch.testing.assert_close(scores, torch.tensor([0.09, 0.25, 0.09]))
