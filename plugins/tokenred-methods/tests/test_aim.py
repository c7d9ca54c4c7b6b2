"""AIM beyond its golden cases."""

from dataclasses import replace

import pytest
import torch
from property.cases import make

from tokenred import ConfigError, load_pipeline
from tokenred.testing import layer_state
from tokenred.types import VisualTokens


def group(tokens, *steps):
    grouper = make("token grouper", "bipartite-steps", steps=list(steps))
    return grouper.group(tokens, generator=torch.Generator())


def test_a_partner_is_the_mean_of_itself_and_all_that_join() -> None:
    features = torch.tensor([[[1.0, 0.1], [1.0, 0.0], [1.0, 0.2], [0.0, 1.0]]])
    found = group(VisualTokens.of(features, (2, 2)), 2)
    assert found.head.tolist() == [1, 3]
    third = 1 / 3
    expected = torch.tensor([[third, third, third, 0], [0, 0, 0, 1.0]])
    torch.testing.assert_close(found.map.to_dense(), expected)


def test_dropped_tokens_take_no_part() -> None:
    tokens = VisualTokens.of(torch.rand(2, 6, 4), (2, 3))
    keep = tokens.keep.clone()
    keep[0, 2:] = False
    keep[1] = False
    found = group(replace(tokens, keep=keep), 0.5, 0.5)
    assert found.head.tolist() == [1]
    assert set(found.map.coalesce().indices()[1].tolist()) == {0, 1}


@pytest.mark.parametrize("steps", [[], [0], [0.0], [1.0]])
def test_a_step_merges_something(steps: list[float]) -> None:
    with pytest.raises(ConfigError, match="steps"):
        make("token grouper", "bipartite-steps", steps=steps)


def test_a_quarter_is_left_and_then_none_in_the_deep_layers() -> None:
    pipeline = load_pipeline("aim")
    reduced = pipeline.run(VisualTokens.of(torch.rand(2, 196, 8), (14, 14)))
    assert len(reduced.features) == 2 * 49
    ((_, reducer),) = pipeline.inside_llm.reducers
    assert [step.layer for step in reducer.steps(28)] == list(range(15, 23))


def test_attention_counts_that_comes_through_other_tokens() -> None:
    state = layer_state(1, (1, 2), before=1, after=1)
    rows = torch.tensor([[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]])
    state = replace(state, attention=lambda queries: rows[:, queries])
    places = torch.arange(4)
    once = make("token ranker", "page-rank", iterations=1, temperature=1.0).rank(state, places)
    torch.testing.assert_close(once, torch.tensor([1.5, 1.5, 1, 0]).double() / 4)
    twice = make("token ranker", "page-rank", iterations=2, temperature=1.0).rank(state, places)
    torch.testing.assert_close(twice, torch.tensor([2.25, 1.75, 0, 0]).double() / 4)
