"""HoloV: numbers for runs of tokens, and what its releases do otherwise."""

import pytest
import torch
from tokenred_methods.holov.runs import RunsConfig, RunsSelector

from tokenred import VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(RunsSelector(RunsConfig(n_runs=3)))
def test_selector(check):
    check()


def chosen(attention, features, n_anchors, **settings):
    tokens = VisualTokens.of(
        features[None], (1, len(features)), cues={"salience@features": attention[None]}
    )
    selector = RunsSelector(RunsConfig(**settings))
    return selector.select(tokens, n_anchors, generator=torch.Generator())[0].tolist()


SAME = torch.ones(12, 4)
PEAKED = torch.tensor([0.0, 9, 1, 0, 0, 0, 0, 3, 0, 0, 1, 0]) + 0.01


def test_numbers_follow_attention_and_the_best_of_each_run_stay():
    assert chosen(PEAKED, SAME, 6, n_runs=3) == [0, 1, 2, 3, 7, 10]
    assert chosen(PEAKED, SAME, 4, n_runs=3) == [1, 2, 0, 7]


def test_what_a_run_cannot_take_is_shared_or_lost():
    lost = chosen(PEAKED, SAME, 8, n_runs=3, surplus="lose")
    assert lost == [0, 1, 2, 3, 7, 4]  # the first run earned six and has four
    assert len(chosen(PEAKED, SAME, 8, n_runs=3)) == 8


def test_content_has_a_say_unless_it_is_scaled_to_its_own_run():
    flat = torch.full((12,), 1 / 12)
    generator = torch.Generator().manual_seed(0)
    mixed = torch.cat([torch.ones(6, 16), torch.randn(6, 16, generator=generator)])

    def of_second(**settings):
        picks = chosen(flat, mixed, 6, n_runs=2, variance_weight=5.0, **settings)
        return sum(pick >= 6 for pick in picks)

    assert of_second() > 3
    assert of_second(variance="run") == 3


@pytest.mark.parametrize("ratio", [0.25, 0.1])
def test_budgets_are_met_in_every_frame(ratio):
    pipeline = load_pipeline("holov", {"budget.retention_ratio": ratio})
    tokens = video_tokens(3, (27, 27), needs=pipeline.needs, dim=8, native_pool="bilinear")
    assert set(pipeline.run(tokens).realised.tokens_per_frame) == {-(-196 * ratio // 1)}


def test_the_release_fills_up_with_zero_vectors():
    settings = {"frame.n_anchors": 30, "frame.selector.n_runs": 9}
    pipeline = load_pipeline("holov-released", settings)
    tokens = video_tokens(2, (6, 6), needs=pipeline.needs, dim=8)
    attention = torch.full((2, 36), 1e-4)
    attention[:, :4] = 1.0
    (cue,) = pipeline.needs
    tokens = VisualTokens.of(tokens.features, (6, 6), cues={cue: attention})
    reduced = pipeline.run(tokens, trace=True)
    features = reduced.features.view(2, 30, 8)
    is_zero = (features == 0).all(-1)
    assert is_zero.sum(-1).tolist() == [26, 26]
    assert bool(is_zero[:, 4:].all())
    assert reduced.realised.tokens_per_frame == (30, 30)
    assert bool((reduced.trace.to_dense().view(2, 30, -1)[:, 4:] == 0).all())
