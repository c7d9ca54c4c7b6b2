"""Intervals, paired tests and what they need, against known answers and other packages."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenred.errors import InputError
from tokenred.evaluation.statistics import (
    holm,
    mcnemar,
    mean_with_interval,
    minimum_detectable,
    paired_difference,
    samples_needed,
    sign_flip,
)

SCORES = st.floats(0, 1, allow_subnormal=False)
RIGHT_OR_WRONG = st.sampled_from([0.0, 1.0])


def names(n_videos: int, per_video: int = 1) -> list[str]:
    return [f"v{i // per_video:03d}" for i in range(n_videos * per_video)]


@st.composite
def pairs(draw, score=RIGHT_OR_WRONG):
    """Two rows of scores and the video of each, one to three questions a video."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=9))
    videos = [f"v{video}" for video, size in enumerate(sizes) for _ in range(size)]
    row, reference = draw(arrays(float, (2, len(videos)), elements=score))
    return row, reference, videos


# means


def test_interval_of_single_question_videos_is_wilsons() -> None:
    from statsmodels.stats.proportion import proportion_confint

    correct = np.arange(400) % 4 != 0
    estimate = mean_with_interval(correct, names(400))
    assert estimate.value == 0.75
    assert estimate.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 399))
    wilson = proportion_confint(300, 400, method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx(wilson, abs=5e-4)  # t is near normal


def test_standard_error_is_the_cluster_robust_one() -> None:
    import statsmodels.api as sm

    generator = np.random.default_rng(0)
    video = generator.integers(30, size=200)
    scores = generator.random(200)
    fit = sm.OLS(scores, np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": video})
    estimate = mean_with_interval(scores, [str(each) for each in video])
    assert estimate.standard_error == pytest.approx(fit.bse[0])


def test_standard_error_by_hand() -> None:
    """Two questions of three right: residuals of the videos are 2/3 and -2/3."""
    estimate = mean_with_interval([1, 1, 0], ["a", "a", "b"])
    assert estimate.value == pytest.approx(2 / 3)  # a question weighs alike, not a video
    assert estimate.standard_error == pytest.approx(math.sqrt(2 * 2 * (2 / 3) ** 2) / 3)


def test_questions_that_copy_each_other_do_not_narrow_the_interval() -> None:
    """Ten copies of an answer in a video carry the information of one."""
    single = (np.random.default_rng(0).random(200) < 0.6).astype(float)
    once = mean_with_interval(single, names(200))
    tenfold = mean_with_interval(np.repeat(single, 10), names(200, 10))
    for field in ("value", "low", "high", "standard_error"):
        assert getattr(tenfold, field) == pytest.approx(getattr(once, field))


@pytest.mark.parametrize("n_videos", [1, 5, 60])
def test_videos_that_all_agree_do_not_pretend_to_certainty(n_videos: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    estimate = mean_with_interval(np.ones(4 * n_videos), names(n_videos, 4))
    exact = proportion_confint(n_videos, n_videos, method="beta")
    assert (estimate.low, estimate.high) == pytest.approx(exact)
    assert estimate.standard_error == (None if n_videos == 1 else 0)


def test_one_video_says_nothing_about_its_spread() -> None:
    estimate = mean_with_interval([1, 1, 1, 0], ["a"] * 4)
    assert (estimate.value, estimate.standard_error) == (0.75, None)
    assert (estimate.low, estimate.high) == pytest.approx((0.025 * 0.75, 1 - 0.025 * 0.25))


@given(pairs(score=SCORES))
def test_intervals_stay_where_scores_are(pair) -> None:
    row, _, videos = pair
    score, difference = mean_with_interval(row, videos), paired_difference(*pair).estimate
    assert 0 <= score.low <= score.value + 1e-12
    assert score.value - 1e-12 <= score.high <= 1
    assert -1 - 1e-12 <= difference.low <= difference.value + 1e-12
    assert difference.value - 1e-12 <= difference.high <= 1 + 1e-12


@given(pairs(score=SCORES))
def test_turning_scores_round_turns_the_interval_round(pair) -> None:
    row, _, videos = pair
    right, wrong = mean_with_interval(row, videos), mean_with_interval(1 - row, videos)
    assert (wrong.low, wrong.high) == pytest.approx((1 - right.high, 1 - right.low), abs=1e-6)


# differences


def test_equal_rows_show_no_difference_but_do_not_prove_it() -> None:
    """Sixty videos without a change leave room for 6 % of videos with one."""
    answers = np.random.default_rng(1).random(180) < 0.5
    paired = paired_difference(answers, answers, names(60, 3))
    assert (paired.estimate.value, paired.n_better, paired.n_worse) == (0, 0, 0)
    assert paired.estimate.high == -paired.estimate.low == pytest.approx(1 - 0.025 ** (1 / 60))
    assert paired.p_value == paired.p_mcnemar == 1
    assert paired.n_needed is None
    assert paired.minimum_detectable is not None  # six lost videos in 60 are the least that shows
    assert 6 / 60 > paired.minimum_detectable > 4 / 60


def test_pairing_resolves_what_two_separate_intervals_do_not() -> None:
    """Ten questions lost out of 400, none won: accuracies overlap, the difference is certain."""
    reference = np.arange(400) % 2 == 0
    row = reference.copy()
    row[:20:2] = False
    separate = mean_with_interval(row, names(400)), mean_with_interval(reference, names(400))
    paired = paired_difference(row, reference, names(400))
    assert separate[0].high > separate[1].low
    assert paired.estimate.value == pytest.approx(-10 / 400)
    assert paired.estimate.excludes_zero
    assert (paired.n_better, paired.n_worse) == (0, 10)
    assert paired.p_value == paired.p_mcnemar == pytest.approx(2 / 2**10)


def test_questions_of_one_video_count_once() -> None:
    """Thirty changed questions, all in three videos: no test of three coins is significant."""
    change = np.zeros(200)
    change[:30] = 1
    paired = paired_difference(change, np.zeros(200), names(20, 10))
    assert paired.p_mcnemar == pytest.approx(2 / 2**30)
    assert paired.p_value == 2 / 2**3
    assert not paired.estimate.excludes_zero


@given(pairs(score=SCORES))
def test_exchanging_the_rows_turns_everything_round(pair) -> None:
    row, reference, videos = pair
    one, other = paired_difference(*pair), paired_difference(reference, row, videos)
    assert (one.n_better, one.n_worse) == (other.n_worse, other.n_better)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.p_mcnemar == other.p_mcnemar
    turned = (-other.estimate.high, -other.estimate.low)
    assert (one.estimate.low, one.estimate.high) == pytest.approx(turned, abs=1e-9)


def test_fewer_than_six_videos_show_no_difference() -> None:
    paired = paired_difference([1, 1, 1, 1, 0], [0, 0, 0, 0, 0], names(5))
    assert (paired.estimate.low, paired.estimate.high) == (-1, 1)
    assert paired.p_value == 2 / 2**4
    assert paired.minimum_detectable is None


def test_graded_scores_are_paired_too() -> None:
    paired = paired_difference([0.5, 1, 0.2, 0.9], [0.25, 1, 0.4, 0.1], names(4))
    assert paired.estimate.value == pytest.approx((0.25 - 0.2 + 0.8) / 4)
    assert (paired.n_better, paired.n_worse, paired.p_mcnemar) == (2, 1, None)
    assert paired.p_value == 2 * 2 / 2**3  # fewer negative signs: none, or the 0.2 alone


def test_what_cannot_be_averaged_or_paired_is_refused() -> None:
    with pytest.raises(InputError, match="cannot pair 2 answers with 3"):
        paired_difference([1, 0], [1, 0, 1], ["a", "b"])
    with pytest.raises(InputError, match="at least one"):
        mean_with_interval([], [])
    with pytest.raises(InputError, match="2 answers need as many video names, got 1"):
        mean_with_interval([0, 1], ["a"])
    with pytest.raises(InputError, match="lie in 0 to 1, got -1 to 1"):
        mean_with_interval([-1, 1], ["a", "b"])
    with pytest.raises(InputError, match="lie in 0 to 1"):
        mean_with_interval([math.nan, 1], ["a", "b"])


# tests


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flip_counts_every_choice_of_signs(sums) -> None:
    totals = [
        abs(sum(sign * each for sign, each in zip(signs, sums)))
        for signs in product((-1, 1), repeat=len(sums))
    ]
    assert sign_flip(sums) == pytest.approx(np.mean(np.array(totals) >= abs(sum(sums))))


def test_sign_flip_of_graded_scores_agrees_with_scipy() -> None:
    from scipy.stats import permutation_test

    row, reference = np.random.default_rng(8).random((2, 10))
    exact = permutation_test(
        (row, reference), lambda x, y, axis: (x - y).sum(axis), permutation_type="samples"
    )
    assert sign_flip(row - reference) == pytest.approx(exact.pvalue, abs=2**-9)
    assert 0.01 < exact.pvalue < 0.9


def test_sign_flip_does_not_care_for_the_unit() -> None:
    sums = np.array([1, 1, -1, 2, 1, 1, 1, -1, 1, 3])
    assert sign_flip(sums / 7) == pytest.approx(sign_flip(sums))
    assert sign_flip(np.full(8, 1e-9)) == 2 / 2**8


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_statsmodels_and_the_sign_flip_of_single_questions(better, worse) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    p_value = mcnemar(better, worse)
    assert p_value == pytest.approx(sign_flip([1] * better + [-1] * worse))
    if better + worse:
        assert p_value == pytest.approx(theirs([[0, better], [worse, 0]], exact=True).pvalue)


def test_mcnemar_known_values() -> None:
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar(7, 7) == mcnemar(0, 0) == 1


def test_holm_by_hand_and_in_the_order_given() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize("size", [1, 2, 12])
def test_holm_is_statsmodels(size: int) -> None:
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(size).beta(0.3, 1, size=size).round(2).tolist()  # some tie
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


# what it takes


def test_detectable_and_needed_by_hand() -> None:
    assert minimum_detectable(0.01) == pytest.approx(0.01 * (1.95996 + 0.84162), rel=1e-5)
    assert samples_needed(0.028016, 0.01, 100) == 100
    assert samples_needed(-0.014, 0.01, 100) == 401  # half the gap, four times the videos
    assert samples_needed(0.5, 0.01, 100) == 6  # fewer decide nothing
    assert samples_needed(0.0, 0.01, 100) is None


@pytest.mark.parametrize("n_videos", [10, 20, 100])
def test_detectable_agrees_with_the_power_of_a_t_test(n_videos: int) -> None:
    from statsmodels.stats.power import TTestPower

    gap = minimum_detectable(1 / math.sqrt(n_videos), n_videos)
    power = TTestPower().power(gap, n_videos, 0.05)
    assert power == pytest.approx(0.8, abs=0.012)


def test_needed_agrees_with_the_power_of_a_t_test() -> None:
    from statsmodels.stats.power import TTestPower

    exact = TTestPower().solve_power(effect_size=0.25, alpha=0.05, power=0.8)
    assert samples_needed(0.25, 1 / math.sqrt(40), 40) == pytest.approx(exact, abs=3)


def test_a_difference_says_what_it_would_take() -> None:
    """One question a video, 10 % lost and 6 % won: a gap of 4 points, spread of 0.4."""
    change = np.array([1] * 6 + [-1] * 10 + [0] * 84)
    paired = paired_difference(change > 0, change < 0, names(100))
    error = math.sqrt((0.16 - 0.04**2) / 99)
    assert paired.estimate.standard_error == pytest.approx(error)
    assert paired.minimum_detectable is not None
    assert 1.2 < paired.minimum_detectable / (2.8 * error) < 1.6  # more would differ, were it true
    assert paired.n_needed == math.ceil(100 * (2.80158 * error / 0.04) ** 2)
