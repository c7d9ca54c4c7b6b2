"""Calibrated budgets: the knob is solved on held-out videos and frozen."""

from typing import Any

import pytest
import torch
from profiles import share

from tokenred import BudgetError, ConfigError, Pipeline, VisualTokens, calibrate
from tokenred.pipeline import PipelineConfig, load_config

KNOB = "stages.segment.keep.decide.keep_ratio"


def videos(n: int, frames: int = 6, first_seed: int = 0) -> list[VisualTokens]:
    found = []
    for seed in range(first_seed, first_seed + n):
        features = torch.randn(frames, 25, 4, generator=torch.Generator().manual_seed(seed))
        found.append(VisualTokens.of(features, (5, 5)))
    return found


def config(target: float, decide: str = "quantile", **budget: Any) -> PipelineConfig:
    return load_config(
        {
            "name": "mine",
            "budget": {
                "mode": "calibrated",
                "retention_ratio": target,
                "knob": KNOB,
                "knob_range": [0.0, 1.0],
                **budget,
            },
            "stages": {
                "segment": {
                    "kind": "segment",
                    "segmenter": "single",
                    "coupler": "cosine",
                    "aggregator": "row-normalised",
                    "keep": {"score": "max-probability", "decide": decide},
                }
            },
        }
    )


def retention(found: PipelineConfig, data: list[VisualTokens]) -> float:
    ratios = [Pipeline(found).run(video).realised.retention_ratio for video in data]
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("target", share([0.25, 0.4, 0.7, 0.95], 3))
def test_the_knob_meets_the_budget_and_is_frozen(target: float) -> None:
    held_out = videos(3)
    found = calibrate(config(target), held_out)
    assert found.budget.mode == "as-released"
    assert found.budget.knob is None
    assert found.budget.knob_range is None
    assert found.budget.retention_ratio == target
    assert found.name == "mine"
    assert abs(retention(found, held_out) - target) < 0.02  # one token a frame is 0.04
    assert abs(retention(found, videos(3, first_seed=50)) - target) < 0.03
    assert 0 < found.to_dict()["stages"]["segment"]["keep"]["decide"]["keep_ratio"] <= 1


def test_a_knob_that_lowers_the_retention_is_turned_the_other_way() -> None:
    """Frames cut into longer segments keep fewer anchors; a threshold on a low score rises."""
    falling = config(
        0.5,
        {"name": "threshold"},  # type: ignore[arg-type]
        knob="stages.segment.keep.decide.tau",
        knob_range=[0.0, 1.5],
    )
    high = falling.to_dict()
    high["stages"]["segment"]["keep"]["score"] = "expected-cost"  # kept above tau: falls with tau
    for data in (falling.to_dict(), high):
        found = calibrate(load_config(data), videos(2))
        assert abs(retention(found, videos(2)) - 0.5) < 0.02


def test_calibration_is_reproducible() -> None:
    first, second = (calibrate(config(0.5), videos(2), n_steps=8) for _ in range(2))
    assert first.config_id == second.config_id
    assert first.config_id != config(0.5).config_id


@pytest.mark.parametrize("end", [0, 1])
def test_a_budget_at_the_end_of_the_range_is_met(end: int) -> None:
    held_out = videos(2)
    frozen = {"budget.mode": "as-released", "budget.knob": None, "budget.knob_range": None}
    target = retention(load_config(config(0.5).to_dict(), {**frozen, KNOB: float(end)}), held_out)
    found = calibrate(config(target), held_out, n_steps=5)
    assert retention(found, held_out) == pytest.approx(target)


def test_a_budget_out_of_reach_names_the_nearest() -> None:
    held_out = videos(2)
    with pytest.raises(BudgetError) as caught:
        calibrate(config(0.05), held_out)
    assert str(caught.value) == (
        f"retention_ratio 0.05 is out of reach of {KNOB} in [0, 1]; nearest retention_ratio 0.1667"
    )
    reachable = calibrate(config(0.1667), held_out)
    assert retention(reachable, held_out) == pytest.approx(1 / 6, abs=0.01)


def test_only_calibrated_budgets_are_calibrated() -> None:
    with pytest.raises(ConfigError, match=r"^budget.mode: only a budget of mode 'calibrated'"):
        calibrate(load_config("aot-released"), videos(1))
    with pytest.raises(ConfigError, match="calibration needs at least one video"):
        calibrate(config(0.5), [])


def test_a_knob_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"keep_ration: unknown key.*did you mean 'keep_ratio'"):
        calibrate(config(0.5, knob=f"{KNOB}n"), videos(1))
