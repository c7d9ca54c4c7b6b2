"""Timing that survives a shared machine: interleaved rounds, medians, ratios inside a round.

All contenders of a table run in one process on one thread. A round runs each of them once, every
other round in reverse, so that a machine that slows down or warms up does so for all alike. The
clock counts the time that the processor gave to this process, all its threads together.
"""

import gc
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import process_time

import torch

from tokenred.evaluation.bench.environment import Noise

Call = Callable[[], object]
Clock = Callable[[], float]

REPEATS, WARMUP = 9, 2
SLOW_S, SLOW_REPEATS = 1.0, 5
"""Whose first call takes longer than this is timed in the first few rounds only."""

CANARY_SIZE = 1024
"""Rows of the square float32 matmul that is timed in every round."""


@dataclass(frozen=True)
class Timing:
    """One contender's rounds, in milliseconds of processor time."""

    median_ms: float
    mad_ms: float
    min_ms: float
    n: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Timing":
        """Sum up at least one round; ``mad_ms`` is the median absolute deviation."""
        median = statistics.median(times_ms)
        mad = statistics.median(abs(ms - median) for ms in times_ms)
        return cls(median, mad, min(times_ms), len(times_ms))

    @property
    def spread(self) -> float:
        """MAD / median."""
        return self.mad_ms / self.median_ms if self.median_ms else 0.0


@dataclass
class Rounds:
    """What was measured, round by round.

    Attributes
    ----------
    times_ms : name -> one time a counted round
    canary_ms : the fixed matmul, once a counted round
    first_ms : name -> the very first call, which compiles whatever gets compiled
    """

    times_ms: dict[str, list[float]] = field(default_factory=dict)
    canary_ms: list[float] = field(default_factory=list)
    first_ms: dict[str, float] = field(default_factory=dict)

    def timing(self, name: str) -> Timing:
        """Return the summary of one contender."""
        return Timing.of(self.times_ms[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Return how many times as long ``slow`` took: the median of the ratios inside a round.

        Over the rounds that both were in: all, or the first ones.
        """
        pairs = zip(self.times_ms[slow], self.times_ms[fast], strict=False)
        return statistics.median(a / b for a, b in pairs)


def measure(
    contenders: Mapping[str, Call],
    *,
    repeats: int = REPEATS,
    warmup: int = WARMUP,
    slow_s: float = SLOW_S,
    canary: Call | None = None,
    clock: Clock = process_time,
) -> Rounds:
    """Time every contender once a round; the first ``warmup`` rounds are dropped.

    Parameters
    ----------
    slow_s : seconds of the first call above which ``SLOW_REPEATS`` rounds are enough
    canary : a fixed piece of work, timed once a round; a ``CANARY_SIZE`` matmul by default
    clock : seconds
    """
    canary = canary or fixed_matmul()
    rounds = Rounds({name: [] for name in contenders})
    for number in range(warmup + repeats):
        counts = number >= warmup
        ms = _time_ms(canary, clock)
        if counts:
            rounds.canary_ms.append(ms)
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            slow = rounds.first_ms.get(name, 0.0) > slow_s * 1e3
            if slow and number >= warmup + SLOW_REPEATS:
                continue
            ms = _time_ms(contenders[name], clock)
            rounds.first_ms.setdefault(name, ms)
            if counts:
                rounds.times_ms[name].append(ms)
    return rounds


def fixed_matmul(size: int = CANARY_SIZE) -> Call:
    """Return a call that multiplies the same two float32 matrices every time."""
    left, right = torch.ones(2, size, size)
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def verdict(canary_ms: Sequence[float]) -> Noise:
    """Judge the machine by the canaries of a whole run, in order."""
    return Noise.of(canary_ms)


def load_average() -> float | None:
    """Return the load of the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the exponent of growth: the slope of log time over log size, by least squares."""
    logs = torch.tensor([list(sizes), list(times)], dtype=torch.float64).log()
    x, y = logs - logs.mean(1, keepdim=True)
    return float((x * y).sum() / (x * x).sum())


def _time_ms(call: Call, clock: Clock) -> float:
    # The collector would run inside whoever happens to cross its threshold.
    gc.collect()
    gc.disable()
    try:
        start = clock()
        call()
        return (clock() - start) * 1e3
    finally:
        gc.enable()
