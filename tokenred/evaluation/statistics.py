"""Mean scores and paired differences, with intervals and tests that know which questions share a
video.

Questions about one video stand or fall together, so everything here counts videos, not questions.
Two rows answered the same questions, so their difference is taken question by question.

Source
------
Standard error: Liang & Zeger, Biometrika 73 (1986), with the G / (G - 1) correction for G videos.
Intervals: Wilson's of a mean and Tango's of a difference, both score intervals, with the effective
number of questions, after Korn & Graubard, Survey Methodology 24 (1998). The p value of a
difference: Fisher's sign-flip test. The share of the unseen: Clopper & Pearson, Biometrika 26
(1934).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from tokenred.errors import InputError
from tokenred.evaluation.pairs import (
    FEWEST_CHANGES,
    POWER,
    SIGNIFICANCE,
    Array,
    Fourfold,
    detectable,
    effective_pairs,
    score_interval,
)

FEWEST_VIDEOS = FEWEST_CHANGES
"""With fewer, no outcome of a sign-flip test is as rare as 5 %."""

GRID = 5000
"""Steps into which the sign-flip test divides scores that are not whole numbers."""


@dataclass(frozen=True)
class Estimate:
    """A mean score in 0-1 (or a difference of two) with the ends of its 95 % interval.

    ``standard_error`` is the cluster-robust one: 0 if all videos agree, None for a single video,
    which says nothing about its spread.
    """

    value: float
    low: float
    high: float
    standard_error: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class PairedDifference:
    """A row minus the reference, on the questions that both answered.

    Attributes
    ----------
    estimate : difference of the mean scores
    p_value : two-sided sign-flip test over videos, see :func:`sign_flip`
    n_better, n_worse : questions with a higher, or lower, score than the reference's
    p_mcnemar : exact McNemar test, which takes questions as independent of each other and equals
        ``p_value`` if every video has one question; None if a score is not 0 or 1
    minimum_detectable : smallest true difference that this many videos show in 80 % of runs, see
        :func:`tokenred.evaluation.pairs.detectable`; None if they show none so often
    n_needed : videos that would show a true difference as large as the one seen in 80 % of runs;
        None if none was seen, or the spread is unknown
    """

    estimate: Estimate
    p_value: float
    n_better: int
    n_worse: int
    p_mcnemar: float | None = None
    minimum_detectable: float | None = None
    n_needed: int | None = None


def mean_with_interval(values: ArrayLike, videos: Sequence[str]) -> Estimate:
    """Return the mean of per-question scores with its interval, which stays inside [0, 1].

    The interval is Wilson's, for as many independent questions as have the standard error found
    between videos, with t quantiles for that many videos. It keeps its promise where resampling
    videos does not: with few of them, and for scores near 0 or 1. If all videos agree, it says how
    many unlike them may exist, seen none.

    Parameters
    ----------
    values : (questions,) scores in 0-1
    videos : (questions,) the video of each question; questions weigh alike, not videos

    Raises
    ------
    InputError
        If there is no question, not one video a question, or a score outside 0-1.
    """
    sums, counts = _by_video(values, videos, lowest=0)
    value, error = _mean_and_error(sums, counts)
    if not error:
        return Estimate(value, *_all_alike(value, counts.size, lowest=0), error)
    # the mean of scores that are all in 0-1 varies at most as that of right and wrong ones
    shrink = (_t_quantile(1 - SIGNIFICANCE / 2, counts.size) * error) ** 2 / (value * (1 - value))
    middle = (value + shrink / 2) / (1 + shrink)
    half = math.sqrt(shrink * value * (1 - value) + shrink**2 / 4) / (1 + shrink)
    return Estimate(value, max(0.0, middle - half), min(1.0, middle + half), error)


def paired_difference(
    score: ArrayLike, reference: ArrayLike, videos: Sequence[str]
) -> PairedDifference:
    """Return how much more a row scores than the reference, on the same questions.

    The interval is Tango's, for as many independent questions as have the standard error found
    between videos, with t quantiles for that many videos. It stays inside [-1, 1], spans all of it
    below six videos, and is wider than nothing if the rows never differ: then it says how many
    videos in which they would may exist, seen none. The exact test behind ``p_value`` is stricter
    where few answers differ: its p may exceed 5 % for an interval that ends just beside 0.

    Parameters
    ----------
    score, reference : (questions,) in 0-1, aligned question by question
    videos : (questions,) the video of each question

    Raises
    ------
    InputError
        If the two are not aligned, or as in :func:`mean_with_interval`.
    """
    row, other = np.asarray(score, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if row.shape != other.shape:
        raise InputError(f"cannot pair {row.size} answers with {other.size}")
    change = row - other
    sums, counts = _by_video(change, videos, lowest=-1)
    value, error = _mean_and_error(sums, counts)
    seen = Fourfold.of(row, other)
    low, high = _difference_interval(value, error, seen, counts.size)
    better, worse = int((change > 0).sum()), int((change < 0).sum())
    binary = all(bool(((each == 0) | (each == 1)).all()) for each in (row, other))
    return PairedDifference(
        estimate=Estimate(value, low, high, error),
        p_value=sign_flip(sums),
        n_better=better,
        n_worse=worse,
        p_mcnemar=mcnemar(better, worse) if binary else None,
        minimum_detectable=_minimum_detectable(error, change, seen, counts.size),
        n_needed=None if error is None else samples_needed(value, error, counts.size),
    )


def sign_flip(sums: ArrayLike) -> float:
    """Return the two-sided p value of the sign-flip test.

    If row and reference are equally good, a video's difference may as well have had the other
    sign. The p value is the share of all ways to choose the signs that give a total as far from 0
    as the one seen, counted exactly. With one question a video it is McNemar's exact test.

    Parameters
    ----------
    sums : (videos,) differences, summed over the questions of a video. Unless they are whole
        numbers they are rounded first, to a 5000th part of the sum of their sizes.
    """
    signed = np.asarray(sums, dtype=np.float64)
    if not (signed == signed.round()).all():
        signed = signed * (GRID / np.abs(signed).sum())
    whole = signed.round().astype(np.int64)
    least = int(min(whole[whole > 0].sum(), -whole[whole < 0].sum()))
    reached = np.zeros(least + 1)  # share of sign choices whose negative part sums to the index
    reached[0] = 1
    for size in np.abs(whole[whole != 0]):
        reached *= 0.5
        if size <= least:
            reached[size:] += reached[: least + 1 - size]
    return min(1.0, 2 * float(reached.sum()))


def mcnemar(n_better: int, n_worse: int) -> float:
    """Return the exact two-sided p value of McNemar's test; 1 when no answer differs."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(n_better, n_worse), n_better + n_worse, 0.5)))


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


def minimum_detectable(standard_error: float, n_samples: int | None = None) -> float:
    """Return the smallest true difference that one test at 5 % finds with 80 % power.

    It is 2.8 standard errors: 1.96 to be significant, 0.84 to stay so when chance takes some away.
    This takes the standard error as known and as that of every difference, which holds where many
    answers differ. From answers, ``paired_difference`` does without.

    Parameters
    ----------
    standard_error : of the difference
    n_samples : how many videos it was estimated from, to allow for its own error; None: enough
    """
    return standard_error * sum(_t_quantile(q, n_samples) for q in (1 - SIGNIFICANCE / 2, POWER))


def samples_needed(difference: float, standard_error: float, n_samples: int) -> int | None:
    """Return how many samples show a true difference of this size with 80 % power at 5 %.

    Parameters
    ----------
    difference : the size to find; None is returned for 0, which no number of samples shows
    standard_error, n_samples : as measured; the error shrinks with the root of the number
    """
    if difference == 0:
        return None
    ratio = minimum_detectable(standard_error) / difference
    return max(FEWEST_VIDEOS, math.ceil(n_samples * ratio**2))


def _by_video(values: ArrayLike, videos: Sequence[str], lowest: int) -> tuple[Array, Array]:
    """Return the sum of the values and their number, (videos,) each."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise InputError("a mean score needs at least one answered question")
    if len(videos) != data.size:
        raise InputError(f"{data.size} answers need as many video names, got {len(videos)}")
    if not ((data >= lowest) & (data <= 1)).all():  # NaN included
        raise InputError(f"scores must lie in {lowest} to 1, got {data.min():g} to {data.max():g}")
    _, video, counts = np.unique(np.asarray(videos), return_inverse=True, return_counts=True)
    return np.bincount(video, data).astype(np.float64), counts.astype(np.float64)


def _mean_and_error(sums: Array, counts: Array) -> tuple[float, float | None]:
    """Return the mean over questions and its cluster-robust standard error."""
    n_videos, total = counts.size, counts.sum()
    value = float(sums.sum() / total)
    if n_videos == 1:
        return value, None
    residual = sums - value * counts
    if np.abs(residual).max() < 1e-9:  # rounding alone
        return value, 0.0
    return value, float(np.sqrt(n_videos / (n_videos - 1) * (residual**2).sum()) / total)


def _all_alike(value: float, n_videos: int, lowest: int) -> tuple[float, float]:
    """Return the interval of a mean whose videos all agree.

    A share of unlike videos above this one would have shown itself in 97.5 % of runs; what those
    videos would score is anybody's guess.
    """
    unlike = 1 - (SIGNIFICANCE / 2) ** (1 / n_videos)
    return value - unlike * (value - lowest), value + unlike * (1 - value)


def _difference_interval(
    value: float, error: float | None, seen: Fourfold, n_videos: int
) -> tuple[float, float]:
    """Return the score interval of a difference, with the effective number of pairs."""
    if not error:
        return _all_alike(value, n_videos, lowest=-1)
    if n_videos < FEWEST_VIDEOS:
        return -1.0, 1.0
    quantile = _t_quantile(1 - SIGNIFICANCE / 2, n_videos)
    low, high = score_interval(seen, seen.variance / error**2, quantile)
    return min(low, value), max(high, value)


def _minimum_detectable(
    error: float | None, change: Array, seen: Fourfold, n_videos: int
) -> float | None:
    """Return the difference that a test of these videos finds in 80 % of runs, if there is one."""
    if error is None or n_videos < FEWEST_VIDEOS:
        return None
    between, within = (
        _t_quantile(1 - SIGNIFICANCE / 2, number) for number in (n_videos, change.size)
    )
    n_pairs = effective_pairs((error * change.size) ** 2, change, seen, n_videos)
    return detectable(seen, n_pairs * (within / between) ** 2)


@lru_cache
def _t_quantile(probability: float, n_videos: int | None) -> float:
    """Return the quantile of Student's t for this many videos; of the normal for None."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if n_videos is None else stdtrit(n_videos - 1, probability))
