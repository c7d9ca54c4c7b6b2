from dataclasses import replace

import pytest
import torch
from tokenred_methods.idpruner.mmr import MmrConfig, MmrSelector

from tokenred import CapabilityError, VisualTokens, load_pipeline
from tokenred.errors import BudgetWarning
from tokenred.testing import parametrize_checks, video_tokens

CUES = {"importance": 0}


def selector(**settings):
    return MmrSelector(MmrConfig(importance="importance", **settings))


def choose(chooser, tokens, n_anchors):
    return chooser.select(tokens, n_anchors, generator=torch.Generator())


@parametrize_checks(selector(per_step=3), cues=CUES)
def test_contract(check):
    check()


def marginal(vectors, scores, left, n, balance, per_step):
    """Pick by maximal marginal relevance, with lists."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    low, high = min(scores[i] for i in left), max(scores[i] for i in left)
    relevance = {i: (scores[i] - low) / (high - low + 1e-6) for i in left}
    picks = []
    while len(picks) < n:
        score = {}
        for i in left:
            likeness = [float(unit[i] @ unit[j]) for j in picks]
            score[i] = relevance[i]
            if picks:
                score[i] = balance * relevance[i] - (1 - balance) * max(likeness)
        rest = sorted((i for i in left if i not in picks), key=lambda i, score=score: -score[i])
        picks = picks + rest[: min(per_step, n - len(picks))]
    return picks


@pytest.mark.parametrize(("balance", "per_step"), [(0.5, 1), (0.0, 1), (0.3, 4), (1.0, 1)])
def test_every_pick_has_most_marginal_relevance(balance, per_step):
    tokens = video_tokens(3, (4, 6), needs=CUES, cues=CUES, dim=9, similar=0.4, seed=6)
    keep = tokens.keep.clone()
    keep[1, 3:9] = False
    picks = choose(selector(balance=balance, per_step=per_step), replace(tokens, keep=keep), 11)
    for frame in range(3):
        scores = tokens.cues["importance"][frame].double().tolist()
        left = keep[frame].nonzero()[:, 0].tolist()
        wanted = marginal(tokens.features[frame], scores, left, 11, balance, per_step)
        assert picks[frame].tolist() == wanted


def test_equal_importance_leaves_likeness():
    features = torch.eye(4)[[0, 0, 1, 1, 2, 3]][None]
    tokens = VisualTokens.of(features, (2, 3), cues={"importance": torch.ones(1, 6)})
    assert choose(selector(), tokens, 4)[0].tolist() == [0, 2, 4, 5]


def test_the_caller_brings_the_importance():
    tokens = video_tokens(5, (3, 5), needs={"salience@-2"}, dim=8)
    with pytest.raises(CapabilityError, match=r"idpruner.*importance"):
        load_pipeline("idpruner").run(tokens)
    reduced = load_pipeline("mmr").run(tokens)
    with_cue = replace(tokens, cues={"importance": tokens.cues["salience@-2"]})
    assert torch.equal(load_pipeline("idpruner").run(with_cue).token_index, reduced.token_index)


def test_the_release_rounds_once_for_the_video_to_one_at_least():
    tokens = video_tokens(5, (3, 5), needs=CUES, cues=CUES, dim=8)
    for ratio, number in ((0.02, 2), (0.1, 8)):
        pipeline = load_pipeline("idpruner-released", {"budget.retention_ratio": ratio})
        assert pipeline.run(tokens).realised.n_tokens == number
    pipeline = load_pipeline("idpruner-released", {"budget.retention_ratio": 0.006})
    with pytest.warns(BudgetWarning, match="keeps 1.33 % of the tokens"):
        assert pipeline.run(tokens).realised.n_tokens == 1
