"""IDPruner: maximal marginal relevance."""

import pytest
import torch
from tokenred_methods.idpruner.marginal_relevance import (
    MarginalRelevanceConfig,
    MarginalRelevanceSelector,
)

from tokenred import CapabilityError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(MarginalRelevanceSelector(MarginalRelevanceConfig(per_step=2)))
def test_selector(check):
    check()


FEATURES = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [-1, 0]])
IMPORTANCE = torch.tensor([1.0, 0.9, 0.5, 0.0])


def picks(n_anchors, **settings):
    tokens = VisualTokens.of(FEATURES[None], (1, 4), cues={"importance": IMPORTANCE[None]})
    config = MarginalRelevanceConfig(importance="importance", **settings)
    selector = MarginalRelevanceSelector(config)
    return selector.select(tokens, n_anchors, generator=torch.Generator())[0].tolist()


def test_importance_and_difference_are_weighed():
    assert picks(4, balance=1.0) == [0, 1, 2, 3]
    assert picks(3, balance=0.5) == [0, 3, 2]
    assert picks(2, balance=0.9) == [0, 1]


def test_several_at_once_do_not_see_each_other():
    assert picks(2, balance=0.5, per_step=2) == [0, 1]
    assert picks(3, balance=0.5, per_step=2) == [0, 1, 3]


def test_frames_compete():
    pipeline = load_pipeline("idpruner", {"budget.retention_ratio": 0.1})
    tokens = video_tokens(4, (6, 6), needs=pipeline.needs, dim=8, similar=0.0)
    tokens.cues["salience@features"][1:] = 0.0
    counts = pipeline.run(tokens).realised.tokens_per_frame
    assert sum(counts) == 16  # four frames of 3.6, rounded up
    assert counts[0] > max(counts[1:])


def test_without_scores_it_says_what_is_missing():
    with pytest.raises(CapabilityError, match="cues that are missing: importance"):
        load_pipeline("idpruner-released").run(video_tokens(2, (6, 6)))
