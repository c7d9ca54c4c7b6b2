"""The interval of a paired difference and the power of the test, against known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenred.evaluation.pairs import (
    Fourfold,
    detectable,
    effective_pairs,
    power,
    score_interval,
)

NORMAL = 1.959964
COUNTS = st.integers(0, 30)


def fourfold(both: int, better: int, worse: int, neither: int) -> Fourfold:
    total = both + better + worse + neither
    return Fourfold(both / total, better / total, worse / total, neither / total)


def test_interval_of_a_published_table() -> None:
    """Children before and after a transplantation: Fagerland et al., Stat. Med. 33 (2014)."""
    low, high = score_interval(fourfold(1, 1, 7, 12), 21.0, NORMAL)
    assert (low, high) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(COUNTS, COUNTS)
def test_the_ends_are_a_quantile_away_under_the_fit_that_keeps_them(better, worse) -> None:
    """The variance under a difference comes from the largest likelihood, found here by search."""
    n_pairs = 61
    seen = fourfold(n_pairs - better - worse, better, worse, 0)
    for end in score_interval(seen, float(n_pairs), NORMAL):
        if abs(end) > 1 - 1e-9:
            continue
        share = np.linspace(max(0, -end), (1 - end) / 2, 200_001)[1:-1]
        fit = better * np.log(share + end + 1e-300) + worse * np.log(share)
        fit += (n_pairs - better - worse) * np.log1p(-2 * share - end)
        changed = 2 * share[fit.argmax()] + end
        variance = (changed - end**2) / n_pairs
        distance = abs(seen.difference - end) / math.sqrt(variance)
        assert distance == pytest.approx(NORMAL, abs=0.01)


@pytest.mark.parametrize("n_pairs", [20.0, 200.0])
def test_answers_that_never_differ_leave_room(n_pairs: float) -> None:
    low, high = score_interval(fourfold(1, 0, 0, 1), n_pairs, NORMAL)
    expected = NORMAL**2 / (n_pairs + NORMAL**2)
    assert (low, high) == pytest.approx((-expected, expected), rel=1e-3)


@pytest.mark.parametrize(("better", "worse", "n_pairs"), [(0.1, 0.3, 12), (0.02, 0.2, 60)])
def test_power_counts_every_outcome(better: float, worse: float, n_pairs: int) -> None:
    from scipy.stats import binomtest, multinomial

    outcomes = multinomial(n_pairs, [better, worse, 1 - better - worse])
    found = sum(
        outcomes.pmf([more, less, n_pairs - more - less])
        for more in range(n_pairs + 1)
        for less in range(n_pairs + 1 - more)
        if more + less and binomtest(more, more + less).pvalue <= 0.05
    )
    assert power(better, worse, n_pairs) == pytest.approx(found, rel=1e-9)


def test_large_numbers_of_changes_have_the_power_of_a_normal() -> None:
    gap, changed, n_pairs = 0.01, 0.5, 20_000
    distance = gap / math.sqrt(changed / n_pairs)
    expected = 0.5 * math.erfc((NORMAL - distance) / math.sqrt(2))
    assert power((changed - gap) / 2, (changed + gap) / 2, n_pairs) == pytest.approx(
        expected, abs=0.01
    )


@pytest.mark.parametrize("counts", [(80, 5, 5, 10), (49, 0, 0, 1), (10, 30, 30, 30)])
def test_the_detectable_difference_has_its_power(counts: tuple[int, ...]) -> None:
    """A row that loses it, at the odds ratio of the smoothed table, is told in 80 % of runs."""
    n_pairs = sum(counts)
    gap = detectable(fourfold(*counts), float(n_pairs))
    assert gap is not None
    table = fourfold(*counts).smoothed(float(n_pairs))
    odds_ratio = table.both * table.neither / (table.better * table.worse)
    score = table.both + (table.better + table.worse) / 2
    score = max(score, 1 - score)
    both = np.linspace(max(0, 2 * score - gap - 1), score - gap, 1_000_001)[1:-1]
    ratio = both * (1 + both - 2 * score + gap) / ((score - both) * (score - gap - both))
    both = both[np.abs(ratio - odds_ratio).argmin()]
    assert power(score - gap - both, score - both, n_pairs) == pytest.approx(0.8, abs=0.005)


def test_few_pairs_promise_nothing() -> None:
    """Six of six must differ, which none of a row with half of the answers right can promise."""
    assert detectable(fourfold(2, 1, 1, 2), 6.0) is None
    assert detectable(fourfold(50, 1, 1, 50), 102.0) is not None


def test_right_and_wrong_are_alike() -> None:
    assert detectable(fourfold(80, 5, 5, 10), 100.0) == detectable(fourfold(10, 5, 5, 80), 100.0)


def test_few_changes_are_not_taken_as_independent() -> None:
    """One change in 20 videos of ten questions may stand for a video that is lost as a whole."""
    change = np.zeros(200)
    change[0] = -1.0
    seen = Fourfold.of(np.ones(200) + change, np.ones(200))
    spread = 20 / 19 * (change.reshape(20, 10).sum(axis=1) - change.mean() * 10).var() * 20
    assert effective_pairs(spread, change, seen, 20) < 0.7 * 200
