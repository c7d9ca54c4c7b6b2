"""Accuracies and paired differences with intervals that know which questions share a video.

Questions about one video stand or fall together, so resampling draws whole videos (a cluster
bootstrap). Two rows answered the same questions, so their difference is taken question by question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tokenred.errors import InputError

N_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A share in 0-1 (or a difference of two) with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedDifference:
    """A row minus the reference, on the questions that both answered.

    Attributes
    ----------
    estimate : difference of the accuracies
    p_value : exact McNemar test, which takes questions as independent of each other
    n_better, n_worse : questions that only the row, or only the reference, answered correctly
    """

    estimate: Estimate
    p_value: float
    n_better: int
    n_worse: int


def mean_with_interval(
    values: ArrayLike, videos: Sequence[str], n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Estimate:
    """Return the mean of per-question values with its cluster-bootstrap interval.

    Parameters
    ----------
    values : (questions,) 0 or 1 for an accuracy, -1, 0 or 1 for a paired difference
    videos : (questions,) the video of each question; whole videos are resampled
    n_resamples, seed : of the bootstrap; the same seed gives the same interval

    Raises
    ------
    InputError
        If there is no question, or not one video a question.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise InputError("an accuracy needs at least one answered question")
    if len(videos) != data.size:
        raise InputError(f"{data.size} answers need as many video names, got {len(videos)}")
    _, cluster = np.unique(np.asarray(videos), return_inverse=True)
    sums = np.bincount(cluster, weights=data)
    counts = np.bincount(cluster).astype(np.float64)
    draws = _resamples(counts.size, n_resamples, seed)
    means = (draws @ sums) / (draws @ counts)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(data.mean()), float(low), float(high))


def paired_difference(
    correct: ArrayLike,
    reference: ArrayLike,
    videos: Sequence[str],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Return how much more often a row is right than the reference, on the same questions.

    Parameters
    ----------
    correct, reference : (questions,) bool, aligned question by question
    videos : (questions,) the video of each question

    Raises
    ------
    InputError
        If the two are not aligned.
    """
    row, other = np.asarray(correct, dtype=np.int64), np.asarray(reference, dtype=np.int64)
    if row.shape != other.shape:
        raise InputError(f"cannot pair {row.size} answers with {other.size}")
    change = row - other
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    return PairedDifference(
        estimate=mean_with_interval(change, videos, n_resamples, seed),
        p_value=mcnemar(better, worse),
        n_better=better,
        n_worse=worse,
    )


def mcnemar(n_better: int, n_worse: int) -> float:
    """Return the exact two-sided p value of McNemar's test; 1 when no answer differs."""
    from scipy.stats import binomtest

    n_changed = n_better + n_worse
    return 1.0 if n_changed == 0 else float(binomtest(n_better, n_changed, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values, in the order given.

    Rejecting those at or below 0.05 keeps the chance of any false rejection in the family at or
    below 5 %, whatever the dependence between the tests.
    """
    order = np.argsort(p_values, kind="stable")
    size = len(p_values)
    adjusted = [0.0] * size
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (size - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@lru_cache(maxsize=8)
def _resamples(n_videos: int, n_resamples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each video is drawn, (resamples, videos); every row sums to n_videos."""
    generator = np.random.default_rng(seed)
    shares = np.full(n_videos, 1 / n_videos)
    return generator.multinomial(n_videos, shares, size=n_resamples).astype(np.float64)
