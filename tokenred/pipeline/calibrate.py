"""Calibrated budgets: solve one knob on held-out videos, then freeze it."""

from collections.abc import Sequence

from tokenred.errors import BudgetError, ConfigError
from tokenred.pipeline.config import PipelineConfig, load_config
from tokenred.pipeline.pipeline import Pipeline
from tokenred.types import VisualTokens


def calibrate(
    config: PipelineConfig, videos: Sequence[VisualTokens], *, n_steps: int = 20
) -> PipelineConfig:
    """Return ``config`` with its knob set so that the mean retention meets the budget.

    The retention must rise or fall with the knob over ``budget.knob_range``; it is found by
    bisection on the held-out ``videos``. The result runs ``as-released`` with the knob frozen.

    Raises
    ------
    ConfigError
        If the budget's mode is not ``calibrated``, or there are no videos.
    BudgetError
        If the range does not contain the budget; the nearest retention is named.
    """
    budget = config.budget
    if budget.mode != "calibrated":
        raise ConfigError("only a budget of mode 'calibrated' can be calibrated", ["budget.mode"])
    if not videos:
        raise ConfigError("calibration needs at least one video", ["budget"])
    assert budget.knob is not None
    assert budget.knob_range is not None
    knob, (low, high) = budget.knob, budget.knob_range
    at_low, at_high = (_retention(_frozen(config, knob, end), videos) for end in (low, high))
    target, rising = budget.retention_ratio, at_high >= at_low
    if not min(at_low, at_high) <= target <= max(at_low, at_high):
        near = min((at_low, at_high), key=lambda reached: abs(reached - target))
        raise BudgetError(
            f"retention_ratio {target:g} is out of reach of {knob} in [{low:g}, {high:g}]; "
            f"nearest retention_ratio {near:.4f}"
        )
    best_gap, best = min((abs(at_low - target), low), (abs(at_high - target), high))
    for _ in range(n_steps):
        middle = (low + high) / 2
        reached = _retention(_frozen(config, knob, middle), videos)
        if abs(reached - target) < best_gap:
            best, best_gap = middle, abs(reached - target)
        if (reached < target) == rising:
            low = middle
        else:
            high = middle
    return _frozen(config, knob, best)


def _frozen(config: PipelineConfig, knob: str, value: float) -> PipelineConfig:
    overrides = {
        "budget.mode": "as-released",
        "budget.knob": None,
        "budget.knob_range": None,
        knob: value,
    }
    return load_config(config.to_dict(), overrides)


def _retention(config: PipelineConfig, videos: Sequence[VisualTokens]) -> float:
    pipeline = Pipeline(config)
    return sum(pipeline.run(video).realised.retention_ratio for video in videos) / len(videos)
