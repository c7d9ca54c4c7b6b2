from dataclasses import replace

import pytest
import torch
from tokenred_methods.divprune.max_min import MaxMinConfig, MaxMinSelector

from tokenred import InputError, VisualTokens, load_pipeline
from tokenred.errors import BudgetWarning
from tokenred.testing import parametrize_checks, video_tokens

PLAIN, RELEASED = (MaxMinSelector(MaxMinConfig(released=flag)) for flag in (False, True))


def choose(selector, tokens, n_anchors):
    return selector.select(tokens, n_anchors, generator=torch.Generator())


@parametrize_checks(PLAIN)
def test_contract(check):
    check()


def farthest_first(vectors, keep, n):
    """Pick farthest tokens from a whole matrix of distances, with lists."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    distance = 1 - unit @ unit.T
    left = keep.nonzero()[:, 0].tolist()
    picks = [max(left, key=lambda i: min(float(distance[i, j]) for j in left if j != i))]
    while len(picks) < n:
        rest = [i for i in left if i not in picks]
        picks.append(max(rest, key=lambda i: min(float(distance[i, j]) for j in picks)))
    return picks


@pytest.mark.parametrize("n", [1, 2, 9, 20])
def test_every_pick_is_the_farthest(n):
    tokens = video_tokens(3, (5, 6), dim=7, similar=0.6, seed=2)
    keep = tokens.keep.clone()
    keep[1, 4:9] = False
    picks = choose(PLAIN, replace(tokens, keep=keep), n)
    for frame in range(3):
        assert picks[frame].tolist() == farthest_first(tokens.features[frame], keep[frame], n)


def test_a_large_frame_is_compared_in_pieces(monkeypatch):
    tokens = video_tokens(2, (6, 6), dim=9, similar=0.3, seed=4)
    whole = choose(PLAIN, tokens, 12)
    monkeypatch.setattr("tokenred.kernels.similarity.CHUNK_BYTES", 1500)
    assert torch.equal(choose(PLAIN, tokens, 12), whole)


def test_a_frame_that_repeats_another_keeps_nothing():
    tokens = video_tokens(3, (4, 4), dim=32, similar=0.0, seed=1)
    features = tokens.features.clone()
    features[1] = features[0]
    pipeline = load_pipeline("divprune", {"budget.retention_ratio": 0.5})
    counts = pipeline.run(replace(tokens, features=features)).realised.tokens_per_frame
    assert sum(counts) == 24
    assert counts[0] + counts[1] <= 17
    assert counts[2] > 6


def test_twins_and_zeros_are_picked_once_unless_as_released():
    twins = torch.eye(3)[[0, 1, 2, 0, 1, 2]][None]
    tokens = VisualTokens.of(twins, (2, 3))
    assert sorted(choose(PLAIN, tokens, 6)[0].tolist()) == list(range(6))
    assert (choose(RELEASED, tokens, 6)[0] < 0).any()
    zeros = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    zeros[0, 4] = 0
    tokens = VisualTokens.of(zeros, (2, 3))
    assert choose(RELEASED, tokens, 5)[0].tolist() == [4, 0, -1, -1, -1]
    assert len(set(choose(PLAIN, tokens, 5)[0].tolist())) == 5


def test_a_single_token_is_kept_unless_as_released():
    tokens = VisualTokens.of(torch.ones(1, 1, 4), (1, 1))
    assert load_pipeline("divprune").run(tokens).realised.n_tokens == 1
    with pytest.raises(InputError, match="there is none"):
        load_pipeline("divprune-released", {"budget.retention_ratio": 1.0}).run(tokens)


def test_the_release_rounds_once_for_the_video():
    tokens = video_tokens(5, (3, 5), dim=8)
    for ratio, number in ((0.02, 2), (0.1, 8)):  # 1.5 and 7.5
        pipeline = load_pipeline("divprune-released", {"budget.retention_ratio": ratio})
        assert pipeline.run(tokens).realised.n_tokens == number
    pipeline = load_pipeline("divprune-released", {"budget.retention_ratio": 0.006})
    with pytest.warns(BudgetWarning, match="keeps 0 % of the tokens"):
        assert pipeline.run(tokens).realised.n_tokens == 0
    assert load_pipeline("divprune").run(tokens).realised.n_tokens == 10
