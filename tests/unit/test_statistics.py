"""Intervals, paired tests and Holm's adjustment against known answers and under the null."""

import math

import numpy as np
import pytest

from tokenred.errors import InputError
from tokenred.evaluation.statistics import holm, mcnemar, mean_with_interval, paired_difference


def test_interval_of_single_question_videos_is_the_binomial_one() -> None:
    correct = np.arange(400) % 4 != 0
    estimate = mean_with_interval(correct, [f"v{i}" for i in range(400)])
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert estimate.value == 0.75
    assert estimate.low == pytest.approx(0.75 - half, abs=0.006)
    assert estimate.high == pytest.approx(0.75 + half, abs=0.006)


def test_questions_that_copy_each_other_do_not_narrow_the_interval() -> None:
    """Ten copies of an answer in a video carry the information of one."""
    single = np.random.default_rng(0).random(200) < 0.6
    videos = [f"v{i:03d}" for i in range(200)]
    once = mean_with_interval(single, videos)
    tenfold = mean_with_interval(np.repeat(single, 10), np.repeat(videos, 10).tolist())
    assert tenfold == once


def test_videos_with_more_questions_weigh_more() -> None:
    estimate = mean_with_interval([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert estimate.value == 0.75
    assert (estimate.low, estimate.high) == (0, 1)  # some resamples hold one video only


def test_equal_rows_differ_by_nothing() -> None:
    answers = np.random.default_rng(1).random(60) < 0.5
    paired = paired_difference(answers, answers, [f"v{i // 3}" for i in range(60)])
    assert (paired.estimate.value, paired.estimate.low, paired.estimate.high) == (0, 0, 0)
    assert not paired.estimate.excludes_zero
    assert paired.p_value == 1


def test_pairing_resolves_what_two_separate_intervals_do_not() -> None:
    """Ten questions lost out of 400, none won: accuracies overlap, the difference is certain."""
    reference = np.arange(400) % 2 == 0
    row = reference.copy()
    row[:20:2] = False
    videos = [f"v{i}" for i in range(400)]
    separate = mean_with_interval(row, videos), mean_with_interval(reference, videos)
    paired = paired_difference(row, reference, videos)
    assert separate[0].high > separate[1].low
    assert paired.estimate.value == pytest.approx(-10 / 400)
    assert paired.estimate.excludes_zero
    assert (paired.n_better, paired.n_worse) == (0, 10)
    assert paired.p_value == pytest.approx(2 / 2**10)


def test_mcnemar_known_values() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(7, 7) == 1


def test_holm_by_hand_and_in_the_order_given() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_seed_fixes_the_interval() -> None:
    answers = np.random.default_rng(2).random(50) < 0.5
    first, again, other = (
        mean_with_interval(answers, [f"v{i}" for i in range(50)], n_resamples=99, seed=seed)
        for seed in (3, 3, 4)
    )
    assert first == again != other


def test_unaligned_rows_are_refused() -> None:
    with pytest.raises(InputError, match="cannot pair 2 answers with 3"):
        paired_difference([1, 0], [1, 0, 1], ["a", "b"])
    with pytest.raises(InputError, match="at least one"):
        mean_with_interval([], [])


def test_under_the_null_intervals_cover_and_tests_hold_their_level() -> None:
    """Rows equally good, answers correlated inside videos; 500 experiments.

    The share of intervals that exclude zero must be 5 % within Monte-Carlo error (sd 1 point),
    a little more for the percentile bootstrap with 100 videos. Treating the questions as
    independent would exclude zero in about 14 %.
    """
    generator = np.random.default_rng(7)
    n_videos, per_video, n_experiments = 100, 6, 500
    videos = [f"v{i:03d}" for i in range(n_videos) for _ in range(per_video)]
    missed = naive_missed = 0
    for _ in range(n_experiments):
        luck = generator.random((2, n_videos, 1)) < 0.5  # a method's luck with a whole video
        chance = np.where(luck, 0.9, 0.5)
        row, reference = generator.random((2, n_videos, per_video)) < chance
        missed += paired_difference(row.ravel(), reference.ravel(), videos).estimate.excludes_zero
        change = row.ravel().astype(float) - reference.ravel()
        naive_missed += abs(change.mean()) > 1.96 * change.std() / math.sqrt(change.size)
    assert 0.02 < missed / n_experiments < 0.085
    assert naive_missed / n_experiments > 0.1


def test_holm_keeps_the_family_wise_rate() -> None:
    generator = np.random.default_rng(11)
    families = 300
    false_alarms = 0
    for _ in range(families):
        better = generator.binomial(60, 0.5, size=8)
        false_alarms += min(holm([mcnemar(int(b), 60 - int(b)) for b in better])) <= 0.05
    assert false_alarms / families < 0.05 + 3 * math.sqrt(0.05 * 0.95 / families)
