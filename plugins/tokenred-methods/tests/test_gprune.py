"""G-Prune: flow in a graph of similar tokens."""

import pytest
import torch
from tokenred_methods.gprune.graph_flow import GraphFlowConfig, GraphFlowSelector

from tokenred import VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(GraphFlowSelector(GraphFlowConfig(similarity=0.0)))
def test_selector(check):
    check()


def best(features, n_anchors, keep=None, **settings):
    tokens = VisualTokens.of(features[None], (1, len(features)))
    if keep is not None:
        tokens.keep[0] = torch.tensor(keep)
    selector = GraphFlowSelector(GraphFlowConfig(**settings))
    return selector.select(tokens, n_anchors, generator=torch.Generator())[0].tolist()


def angles(*degrees):
    turned = torch.deg2rad(torch.tensor(degrees, dtype=torch.float32))
    return torch.stack([turned.cos(), turned.sin()], -1)


def test_flow_gathers_where_links_meet():
    """The token between two others is linked to both, each of which to it alone."""
    assert best(angles(0, 50, 100), 1, temperature=10.0, steps=1) == [1]


def test_a_token_without_links_keeps_its_length():
    features = angles(0, 10, 180) * torch.tensor([1.0, 1.0, 3.0])[:, None]
    assert best(features, 1) == [2]
    assert best(features, 2, steps=0)[0] == 2


def test_dropped_tokens_and_zero_vectors_take_no_part():
    features = torch.cat([angles(0, 1, 2), torch.zeros(1, 2)])
    assert 3 not in best(features, 3)
    assert best(features, 2, keep=[True, False, True, False]) in ([0, 2], [2, 0])


@pytest.mark.parametrize("ratio", [0.25, 0.1])
def test_budgets_are_met_in_every_frame(ratio):
    pipeline = load_pipeline("gprune", {"budget.retention_ratio": ratio})
    tokens = video_tokens(3, (27, 27), dim=8, native_pool="bilinear")
    assert set(pipeline.run(tokens).realised.tokens_per_frame) == {-(-196 * ratio // 1)}


def test_the_release_rounds_down():
    pipeline = load_pipeline("gprune-released", {"budget.retention_ratio": 0.1})
    reduced = pipeline.run(video_tokens(3, (27, 27), dim=8, native_pool="bilinear"))
    assert reduced.realised.tokens_per_frame == (19, 19, 19)
