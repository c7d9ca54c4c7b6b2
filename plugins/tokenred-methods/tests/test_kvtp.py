"""KVTP: budgets by the relevance of frames."""

from dataclasses import replace

import pytest
import torch
from tokenred_methods.kvtp.rates import RelevanceRatesAllocator, RelevanceRatesConfig, frame_rates

from tokenred import CapabilityError, InputError, load_pipeline
from tokenred.testing import parametrize_checks
from tokenred.testing.videos import video_tokens


@parametrize_checks(RelevanceRatesAllocator(RelevanceRatesConfig()))
def test_allocator(check):
    check()


def test_rates_are_as_asked_for_on_average_and_the_best_part_counts():
    relevance = torch.tensor([[0.0, 4.0], [1.0, 1.0], [0.0, 0.0]])
    rates = frame_rates(relevance, 0.2)
    assert float(rates.mean()) == pytest.approx(0.2)
    assert rates.tolist() == sorted(rates.tolist(), reverse=True)


def video(relevance):
    pipeline = load_pipeline("kvtp", {"budget.retention_ratio": 0.2})
    tokens = video_tokens(len(relevance), (10, 10), needs=pipeline.needs, dim=8)
    return replace(tokens, cues={**tokens.cues, "frame-relevance": torch.tensor(relevance)})


def test_what_a_frame_cannot_take_goes_to_others_or_is_lost_as_released():
    tokens = video([20.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    counts = load_pipeline("kvtp", {"budget.retention_ratio": 0.2}).run(tokens).realised
    assert counts.tokens_per_frame == (100, 4, 4, 4, 4, 4)
    released = load_pipeline("kvtp-released", {"budget.retention_ratio": 0.2}).run(tokens).realised
    assert released.tokens_per_frame == (100, 0, 0, 0, 0, 0)


def test_short_videos_are_refused_where_the_release_would_fail():
    pipeline = load_pipeline("kvtp", {"frame.allocator.refuse_short": True})
    with pytest.raises(InputError, match="needs 10 frames, this one has 4"):
        pipeline.run(video([1.0, 2.0, 3.0, 4.0]))


def test_the_cue_has_an_entry_for_every_frame():
    tokens = video([1.0, 2.0, 3.0])
    fewer = replace(tokens, cues={**tokens.cues, "frame-relevance": torch.ones(2)})
    with pytest.raises(InputError, match="frame-relevance has 2 entries, one for each of the 3"):
        load_pipeline("kvtp").run(fewer)
    without = {name: cue for name, cue in tokens.cues.items() if name != "frame-relevance"}
    with pytest.raises(CapabilityError, match="missing: frame-relevance"):
        load_pipeline("kvtp").run(replace(tokens, cues=without))
