"""Two rows' answers to the same questions: the interval of their difference, and the difference
that a test would find.

Both take as many independent pairs of answers as have the standard error found between videos, and
both look at the difference in question, not at the one seen: how far results scatter depends on the
difference, and near a score of 0 or 1 too few answers change to tell the scatter by itself.

Source
------
Interval: Tango's score interval, Statistics in Medicine 17 (1998), Eq. 9. Effective number of
pairs: Korn & Graubard, Survey Methodology 24 (1998). Power: that of the exact test, summed over the
number of answers that differ, as in Lachin, Statistics in Medicine 11 (1992). statsmodels and scipy
have the paired test but neither its interval nor its power.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIGNIFICANCE = 0.05
POWER = 0.8
FEWEST_CHANGES = 6
"""With fewer answers that differ, no outcome of a paired test is as rare as 5 %."""

PRIOR_CORRELATION = 0.25
"""Of two questions about one video, as far as one more answer that differs says so."""

_TABLE = 4096
"""Up to so many answers that differ, the bounds of the exact test are computed once."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fourfold:
    """The shares of the questions that both rows, one of them, or neither answers rightly.

    Of graded scores it holds the means of what both have, one has more, or both lack, so that
    ``better - worse`` is the difference of the means; right and wrong ones with the same shares
    vary at least as much.
    """

    both: float
    better: float
    worse: float
    neither: float

    @classmethod
    def of(cls, score: Array, reference: Array) -> "Fourfold":
        """Return the table of two rows in 0-1, (questions,) each."""
        shares = (
            np.minimum(score, reference),
            np.maximum(score - reference, 0),
            np.maximum(reference - score, 0),
            1 - np.maximum(score, reference),
        )
        return cls(*(float(share.mean()) for share in shares))

    @property
    def difference(self) -> float:
        """How much more the row scores than the reference."""
        return self.better - self.worse

    @property
    def variance(self) -> float:
        """Of the difference in one independent pair of right or wrong answers."""
        return self.better + self.worse - self.difference**2

    def smoothed(self, n_pairs: float) -> "Fourfold":
        """Return the table with half an answer more of either change, a quarter more of the rest.

        What was seen in no answer is not impossible; Haldane and Anscombe add a half to all four.
        """
        added = (0.25, 0.5, 0.5, 0.25)
        shares = (self.both, self.better, self.worse, self.neither)
        total = n_pairs + sum(added)
        return Fourfold(*((n_pairs * share + more) / total for share, more in zip(shares, added)))


def score_interval(seen: Fourfold, n_pairs: float, quantile: float) -> tuple[float, float]:
    """Return the differences that a score test does not refuse.

    A difference d is refused if the one seen is more than ``quantile`` standard errors away, and
    the standard error is that under d: it is not 0 where no answer differs, and it is larger on
    the side on which more answers would have to differ.

    Parameters
    ----------
    n_pairs : independent pairs of answers, not necessarily a whole number
    quantile : 1.96, or Student's
    """
    from scipy.optimize import brentq

    def refused(difference: float) -> float:
        distance = n_pairs * (seen.difference - difference) ** 2
        return float(distance - quantile**2 * _variance_under(difference, seen))

    below, above = seen.difference - 1e-12, seen.difference + 1e-12  # its own variance may be 0
    low = -1.0 if below <= -1 else float(brentq(refused, -1.0, below))
    high = 1.0 if above >= 1 else float(brentq(refused, above, 1.0))
    return low, high


def effective_pairs(spread: float, change: Array, seen: Fourfold, n_videos: int) -> float:
    """Return how many independent pairs of answers have this spread, for the power of a test.

    Few answers that differ say little about whether those of one video do so together. So one more
    is counted, whose video has the spread of ``PRIOR_CORRELATION``.

    Parameters
    ----------
    spread : the squared standard error of the sum over all questions, between videos
    change : (questions,) row minus reference
    """
    sizes = np.abs(change)
    n_questions = sizes.size
    size = float((sizes**2).sum() / sizes.sum()) if sizes.any() else 1.0  # 1 for right and wrong
    together = 1 + PRIOR_CORRELATION * (n_questions / n_videos - 1)
    independent = n_questions * seen.variance
    return n_questions * (independent + size) / (spread + size**2 * together)


def detectable(seen: Fourfold, n_pairs: float) -> float | None:
    """Return the smallest true difference that the exact test at 5 % finds in 80 % of runs.

    It is solved at its own difference: another row loses that much, while the reference, and the
    odds ratio between the two, stay as they are. Where most answers are wrong the row gains it.

    Returns
    -------
    A difference above 0, or None: not even a row with no right answer (or no wrong one) would be
    told from the reference in 80 % of runs.
    """
    from scipy.optimize import brentq

    pairs = max(1, round(n_pairs))
    table = seen.smoothed(float(pairs))
    odds_ratio = table.both * table.neither / (table.better * table.worse)
    middle = table.both + (table.better + table.worse) / 2
    right = max(middle, 1 - middle)

    def lacking(difference: float) -> float:
        return power(*_changes(right, right - difference, odds_ratio), pairs) - POWER

    largest = right * (1 - 1e-9)
    if lacking(largest) < 0:
        return None
    return float(brentq(lacking, 1e-9, largest, xtol=1e-5))


def power(better: float, worse: float, n_pairs: int) -> float:
    """Return how often the exact paired test at 5 % refuses that two rows are equal.

    Parameters
    ----------
    better, worse : chance that an answer is better, or worse, than the reference's
    n_pairs : independent pairs of answers
    """
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    changed = better + worse
    reach = 7 * math.sqrt(n_pairs * changed * (1 - changed)) + 2  # what lies outside never happens
    first = max(FEWEST_CHANGES, math.floor(n_pairs * changed - reach))
    n_changes = np.arange(first, min(n_pairs, math.ceil(n_pairs * changed + reach)) + 1)
    chances = np.exp(
        gammaln(n_pairs + 1)
        - gammaln(n_changes + 1)
        - gammaln(n_pairs - n_changes + 1)
        + xlogy(n_changes, changed)
        + xlog1py(n_pairs - n_changes, -changed)
    )
    rarer = _rarer_way(n_changes)
    refused = bdtr(rarer, n_changes, better / changed) + bdtr(rarer, n_changes, worse / changed)
    return float(chances @ refused)


def _rarer_way(n_changes: NDArray[np.int64]) -> Array:
    """Return how many of so many answers that differ may do so the rarer way while p <= 5 %."""
    from scipy.special import bdtrik

    if n_changes.size and n_changes[-1] < _TABLE:
        return _rarer_way_table()[n_changes]
    return np.floor(bdtrik(SIGNIFICANCE / 2, n_changes, 0.5))


@lru_cache(maxsize=1)
def _rarer_way_table() -> Array:
    from scipy.special import bdtrik

    return np.floor(bdtrik(SIGNIFICANCE / 2, np.arange(_TABLE), 0.5))


def _variance_under(difference: float, seen: Fourfold) -> float:
    """Return the variance of one pair, if the true difference is this and else what fits best.

    The share of worse answers is the larger root of 2 q^2 + linear q + constant = 0.
    """
    linear = -(seen.better + seen.worse) + (2 - seen.difference) * difference
    constant = -seen.worse * difference * (1 - difference)
    worse = (math.sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
    return max(0.0, 2 * worse + difference * (1 - difference))


def _changes(reference: float, row: float, odds_ratio: float) -> tuple[float, float]:
    """Return the shares of better and of worse answers of two rows with these scores.

    Plackett, JASA 60 (1965): the fourfold table with given margins and odds ratio.
    """
    middle = 1 + (reference + row) * (odds_ratio - 1)
    root = math.sqrt(max(0.0, middle**2 - 4 * odds_ratio * (odds_ratio - 1) * reference * row))
    both = 2 * odds_ratio * reference * row / (middle + root)
    return max(0.0, row - both), max(1e-12, reference - both)
