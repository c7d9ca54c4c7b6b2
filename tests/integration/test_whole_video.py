"""A choice over whole videos in a model: batches, frames and videos that keep nothing."""

import pytest
import torch

from tests.attach_cases import CASES, KEPT, N_FRAMES, QUARTER, greedy, logits_of, make_inputs
from tokenred.models import attach
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import tiny_llava_onevision

pytest.importorskip("transformers")

OVER_VIDEOS = {**QUARTER, "stages.frame.budget_scope": "video"}
NOTHING = {
    "budget.mode": "as-released",
    "budget.rounding": "floor",
    "budget.at_least": 0,
    "budget.retention_ratio": 0.001,
}


@pytest.fixture(scope="module")
def loaded():
    return tiny_llava_onevision()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["top-attention", "random"])
def test_every_video_of_a_batch_has_its_budget(loaded, name, case):
    model = loaded[0]
    inputs = make_inputs(loaded, *CASES[case])
    with attach(model, load_pipeline(name, OVER_VIDEOS)) as session:
        assert bool(torch.isfinite(logits_of(model, inputs)).all())
    assert [each.n_tokens for each in session.realised] == [KEPT] * len(session.realised)
    assert len(session.realised) == len(inputs["pixel_values_videos"])
    uneven = {each.tokens_per_frame for each in session.realised} - {(KEPT // N_FRAMES,) * N_FRAMES}
    assert uneven
    with attach(model, load_pipeline(name, OVER_VIDEOS)):
        assert torch.equal(greedy(model, inputs), greedy(model, inputs))


def test_pruning_inside_follows_frames_without_tokens(loaded):
    fastv = {"kind": "llm", "reducer": {"name": "ranked", "schedule": {0.5: 0.5}}}
    fastv["reducer"]["quota"] = "group"
    one = {**OVER_VIDEOS, "budget.retention_ratio": 1 / 9, "stages.prune": fastv}
    inputs = make_inputs(loaded, *CASES["padded"])
    with attach(loaded[0], load_pipeline("top-attention", one)) as session:
        greedy(loaded[0], inputs)
    assert any(0 in each.tokens_per_frame for each in session.realised)


def test_a_video_may_keep_nothing(loaded):
    pipeline = load_pipeline("top-attention", {**OVER_VIDEOS, **NOTHING})
    inputs = make_inputs(loaded, *CASES["padded"])
    with pytest.warns(UserWarning, match="keeps 0 %"), attach(loaded[0], pipeline) as session:
        greedy(loaded[0], inputs)
    assert [each.n_tokens for each in session.realised] == [0, 0]
