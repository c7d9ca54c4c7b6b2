"""V-CAST: budgets by curvature, and tokens that stand out."""

import pytest
import torch
from tokenred_methods.vcast.curvature import (
    CurvatureAllocator,
    CurvatureConfig,
    curvature,
    turn_counts,
)
from tokenred_methods.vcast.standing_out import StandingOutSelector

from tokenred import VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(CurvatureAllocator(CurvatureConfig()))
def test_allocator(check):
    check()


@parametrize_checks(StandingOutSelector())
def test_selector(check):
    check()


def test_a_path_that_turns_back_has_the_largest_curvature():
    path = torch.tensor([[0.0, 0], [1, 0], [2, 0], [1, 0], [1, 1]])
    assert curvature(path).tolist() == pytest.approx([1, 0, 2, 1, 1])


def test_the_remainder_goes_to_one_frame_as_released():
    weights = torch.tensor([0.26, 0.24, 0.26, 0.24])
    assert turn_counts(weights, 10, 0, 9).tolist() == [4, 2, 2, 2]
    assert turn_counts(weights, 10, 0, 3).tolist() == [3, 2, 3, 2]
    assert turn_counts(weights, 3, 1, 9).tolist() == [3, 0, 0, 0]  # too few for a minimum


def test_tokens_stand_out_by_direction_or_length():
    features = torch.tensor([[1.0, 0], [1, 0.1], [0, 1.5], [5, 0], [1, -0.1]])
    tokens = VisualTokens.of(features[None], (1, 5))
    picks = StandingOutSelector().select(tokens, 2, generator=torch.Generator())
    assert set(picks[0].tolist()) == {2, 3}


@pytest.mark.parametrize("ratio", [0.25, 0.1])
def test_the_budget_of_the_video_is_met(ratio):
    pipeline = load_pipeline("vcast", {"budget.retention_ratio": ratio})
    tokens = video_tokens(6, (27, 27), dim=8, native_pool="bilinear", similar=0.1)
    counts = pipeline.run(tokens).realised.tokens_per_frame
    assert sum(counts) == 6 * -(-196 * ratio // 1)
    assert len(set(counts)) > 1


def test_a_single_frame_is_kept_whole_by_the_release_alone():
    tokens = video_tokens(1, (6, 6), dim=8)
    assert load_pipeline("vcast-released").run(tokens).realised.n_tokens == 36
    assert load_pipeline("vcast").run(tokens).realised.n_tokens == 4
