from dataclasses import replace

import pytest
import torch
from tokenred_methods.gprune.graph_flow import GraphFlowConfig, GraphFlowSelector

from tokenred import VisualTokens, load_pipeline
from tokenred.errors import BudgetWarning
from tokenred.testing import parametrize_checks, video_tokens


def choose(chooser, tokens, n_anchors):
    return chooser.select(tokens, n_anchors, generator=torch.Generator())


@parametrize_checks(GraphFlowSelector(GraphFlowConfig()))
def test_contract(check):
    check()


def flows(vectors, left, threshold, temperature, steps):
    """Walk on the graph of some tokens alone, edge by edge."""
    some = vectors[left].double()
    unit = torch.nn.functional.normalize(some, dim=-1)
    flow = some.norm(dim=-1).tolist()
    n = len(left)
    edges = [[j for j in range(n) if j == i or unit[i] @ unit[j] >= threshold] for i in range(n)]
    shares = [
        torch.stack([unit[i] @ unit[j] for j in edges[i]]).div(temperature).softmax(0).tolist()
        for i in range(n)
    ]
    for _ in range(steps):
        new = [0.0] * n
        for i in range(n):
            for j, share in zip(edges[i], shares[i]):
                new[j] += flow[i] * share
        flow = new
    return {left[i]: flow[i] / len(edges[i]) for i in range(n)}


@pytest.mark.parametrize(("threshold", "temperature", "steps"), [(0.5, 0.03, 5), (0.2, 0.3, 2)])
def test_most_flow_stays(threshold, temperature, steps):
    chooser = GraphFlowSelector(
        GraphFlowConfig(threshold=threshold, temperature=temperature, steps=steps)
    )
    tokens = video_tokens(3, (4, 6), dim=6, similar=0.6, seed=6)
    keep = tokens.keep.clone()
    keep[1, 3:9] = False
    picks = choose(chooser, replace(tokens, keep=keep), 10)
    for frame in range(3):
        left = keep[frame].nonzero()[:, 0].tolist()
        found = flows(tokens.features[frame], left, threshold, temperature, steps)
        wanted = sorted(found, key=lambda token: -found[token])[:10]
        assert picks[frame].tolist() == wanted


def test_a_token_without_neighbours_keeps_its_length():
    features = torch.eye(5) * torch.tensor([3.0, 1, 5, 2, 4])
    tokens = VisualTokens.of(features[None], (1, 5))
    picks = choose(GraphFlowSelector(GraphFlowConfig()), tokens, 5)
    assert picks[0].tolist() == [2, 4, 0, 3, 1]


def test_the_release_rounds_down():
    tokens = video_tokens(3, (5, 5), dim=9)
    for ratio, released, repaired in ((0.11, 6, 9), (0.05, 3, 6)):
        budget = {"budget.retention_ratio": ratio}
        assert load_pipeline("gprune-released", budget).run(tokens).realised.n_tokens == released
        assert load_pipeline("gprune", budget).run(tokens).realised.n_tokens == repaired
    with pytest.warns(BudgetWarning, match="keeps 0 % of the tokens"):
        none = load_pipeline("gprune-released", {"budget.retention_ratio": 0.03}).run(tokens)
    assert none.realised.n_tokens == 0
