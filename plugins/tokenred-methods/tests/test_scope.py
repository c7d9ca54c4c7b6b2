"""SCOPE: coverage weighted with saliency."""

import pytest
import torch
from tokenred_methods.scope.coverage import CoverageConfig, CoverageSelector

from tokenred import VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(CoverageSelector(CoverageConfig(of="features")))
def test_selector(check):
    check()


def picks(features, n_anchors, saliency=None, **settings):
    cues = {} if saliency is None else {"salience@features": torch.tensor([saliency])}
    if saliency is None:
        settings["layer"] = None
    tokens = VisualTokens.of(features[None], (1, len(features)), cues=cues)
    selector = CoverageSelector(CoverageConfig(of="features", **settings))
    return selector.select(tokens, n_anchors, generator=torch.Generator())[0].tolist()


GROUPS = torch.tensor([[1.0, 0], [1, 0.01], [1, -0.01], [0, 1], [0.01, 1]])
"""Three tokens alike, and two others alike."""


def test_the_largest_group_comes_first_and_then_the_other():
    first, second = picks(GROUPS, 2)
    assert first in (0, 1, 2)
    assert second in (3, 4)


def test_saliency_turns_the_order():
    saliency = [0.1, 0.1, 0.1, 1.0, 0.2]
    assert picks(GROUPS, 1, saliency) == [3]
    assert picks(GROUPS, 1, saliency, alpha=0.0)[0] in (0, 1, 2)
    assert picks(GROUPS, 1, [0.0, 0, 0, 0, 9.0], combine="sum") == [4]


def test_what_points_away_covers_nothing():
    """The gain of a token is its own coverage alone where all others point away."""
    features = torch.tensor([[1.0, 0], [-1, 0], [-1, 0.1]])
    first, second = picks(features, 2)
    assert first in (1, 2)
    assert second == 0


@pytest.mark.parametrize("ratio", [0.25, 0.1])
def test_budgets_are_met_in_every_frame(ratio):
    pipeline = load_pipeline("scope", {"budget.retention_ratio": ratio})
    tokens = video_tokens(3, (27, 27), needs=pipeline.needs, dim=8, native_pool="bilinear")
    assert set(pipeline.run(tokens).realised.tokens_per_frame) == {-(-196 * ratio // 1)}
