"""HiPrune: anchors with their neighbours, and what its releases do otherwise."""

import pytest
import torch
from tokenred_methods.hiprune.with_neighbours import WithNeighboursConfig, WithNeighboursSelector

from tokenred import InputError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(WithNeighboursSelector(WithNeighboursConfig(alpha=1.0)))
def test_selector(check):
    check()


def chosen(middle, deep, n_anchors, grid=(3, 4), **settings):
    """Return the places that are chosen where the layers attend to some tokens, best first."""
    config = WithNeighboursConfig(middle_layer=0, deep_layer=1, **settings)
    cues = {}
    for layer, best in enumerate((middle, deep)):
        values = torch.full((1, 12), 1e-3)
        values[0, best] = torch.linspace(1.0, 0.5, len(best))
        cues[f"attention@{layer}"] = values
    tokens = VisualTokens.of(torch.zeros(1, 12, 1), grid, cues=cues)
    found = WithNeighboursSelector(config).select(tokens, n_anchors, generator=torch.Generator())
    return found[0].nonzero()[:, 0].tolist()


def test_an_anchor_comes_with_its_four_neighbours_and_the_deep_layer_fills_up():
    assert chosen([5], [11, 5, 3], 7, alpha=0.7) == [1, 3, 4, 5, 6, 9, 11]


def test_neighbours_end_at_the_edge_or_go_on_as_released():
    assert chosen([4], [11, 2], 5, alpha=1.0) == [0, 4, 5, 8, 11]
    assert chosen([4], [11, 2], 5, alpha=1.0, edges="wrap") == [0, 3, 4, 5, 8]
    assert chosen([0], [11, 2], 5, alpha=1.0, edges="wrap") == [0, 1, 2, 4, 11]


def test_more_neighbours_than_the_number_takes():
    """Three of a hundred per cent are one anchor and its neighbours, five in all."""
    assert chosen([5], [11], 3, alpha=1.0) == [4, 5, 6]
    with pytest.raises(InputError, match="5 anchors and neighbours exceed the 3 tokens"):
        chosen([5], [11], 3, alpha=1.0, too_many="error")


def test_a_sink_is_chosen_twice_where_the_release_subtracts():
    """Both of the deep layer's best stand beside the anchor: the number falls short by two."""
    assert chosen([5], [5, 6, 11], 7, alpha=0.7, exclude="subtract") == [1, 4, 5, 6, 9]
    assert len(chosen([5], [5, 6, 11], 7, alpha=0.7)) == 7


@pytest.mark.parametrize("name", ["hiprune", "hiprune-qwen"])
@pytest.mark.parametrize("ratio", [0.25, 0.1])
def test_budgets_are_met_in_every_frame(name, ratio):
    pipeline = load_pipeline(name, {"budget.retention_ratio": ratio, "frame.selector.alpha": 1.0})
    tokens = video_tokens(3, (27, 27), needs=pipeline.needs, dim=8, native_pool="bilinear")
    assert set(pipeline.run(tokens).realised.tokens_per_frame) == {-(-196 * ratio // 1)}
