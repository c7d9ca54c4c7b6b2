"""What the keep rules across frames decide, against brute force."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from property.cases import make
from tokenred import ConfigError
from tokenred.testing.strategies import couplings
from tokenred.types import Coupling

ENDS = st.sampled_from(("low", "high"))


@st.composite
def distinct_scores(draw: st.DrawFn) -> Tensor:
    """Draw scores without ties."""
    n = draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    return torch.randperm(n, generator=generator).float() / n


@given(distinct_scores(), ENDS, st.data())
@settings(max_examples=examples(30))
def test_count_keeps_the_first_by_score(score: Tensor, keep: str, data: st.DataObject) -> None:
    n_keep = data.draw(st.integers(0, len(score)))
    kept = make("keep decision", "count").decide(score, keep=keep, n_keep=n_keep)
    wanted = sorted(range(len(score)), key=lambda i: float(score[i]) * (1 if keep == "low" else -1))
    assert set(kept.nonzero()[:, 0].tolist()) == set(wanted[:n_keep])


@given(st.integers(1, 20), ENDS, st.data())
@settings(max_examples=examples(15))
def test_count_decides_ties_in_raster_order(n: int, keep: str, data: st.DataObject) -> None:
    n_keep = data.draw(st.integers(0, n))
    kept = make("keep decision", "count").decide(torch.ones(n), keep=keep, n_keep=n_keep)
    assert kept.tolist() == [True] * n_keep + [False] * (n - n_keep)


def test_count_without_a_quota_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs budget\.mode: exact"):
        make("keep decision", "count").decide(torch.ones(3), keep="low", n_keep=None)


@given(distinct_scores(), ENDS, st.floats(0, 1, width=32))
@settings(max_examples=examples(30))
def test_threshold_is_strict(score: Tensor, keep: str, tau: float) -> None:
    decision = make("keep decision", "threshold", tau=tau)
    kept = decision.decide(score, keep=keep, n_keep=None).tolist()
    assert kept == [(s < tau) if keep == "low" else (s > tau) for s in score.tolist()]
    level = float(score[0])
    strict = make("keep decision", "threshold", tau=level).decide(score, keep=keep, n_keep=None)
    assert not bool(strict[0])


@given(distinct_scores(), ENDS, st.floats(0, 1))
@settings(max_examples=examples(40))
def test_quantile_keeps_its_share_without_ties(score: Tensor, keep: str, ratio: float) -> None:
    decision = make("keep decision", "quantile", keep_ratio=ratio)
    kept = decision.decide(score, keep=keep, n_keep=None)
    exact = ratio * (len(score) - 1)
    if abs(exact - round(exact)) > 1e-6:
        assert int(kept.sum()) == math.ceil(exact)
    else:  # the quantile may lie a rounding error beside a score
        assert int(kept.sum()) in (round(exact), round(exact) + 1, round(exact) - 1)


def test_quantile_is_taken_of_each_row() -> None:
    score = torch.arange(22.0).view(2, 11)
    kept = make("keep decision", "quantile", keep_ratio=0.3).decide(score, keep="low", n_keep=None)
    assert kept.sum(-1).tolist() == [3, 3]


@given(couplings())
@settings(max_examples=examples(20))
def test_scores_are_what_they_say(coupling: Coupling) -> None:
    p = coupling.plan / coupling.plan.sum(-1, keepdim=True)
    torch.testing.assert_close(make("keep score", "max-probability").score(coupling), p.amax(-1))
    torch.testing.assert_close(
        make("keep score", "expected-cost").score(coupling), (p * coupling.cost).sum(-1)
    )


@pytest.mark.parametrize("name", ["max-probability", "expected-cost"])
def test_a_source_far_from_every_anchor_is_kept_first(name: str) -> None:
    """Both scores agree on a source that resembles no anchor at all."""
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.9, 0.95], [0.05, 1.0]])
    masses = torch.full((4,), 1 / 4), torch.full((2,), 1 / 2)
    score = make("keep score", name)
    coupling = make("coupler", "cosine").couple(cost, *masses)
    kept = make("keep decision", "count").decide(score.score(coupling), keep=score.keep, n_keep=1)
    assert kept.tolist() == [False, False, True, False]


def test_expected_cost_tells_equidistant_near_from_far() -> None:
    """The largest probability cannot tell a source between two anchors from one far from both."""
    cost = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    coupling = make("coupler", "cosine").couple(cost, torch.full((2,), 0.5), torch.full((2,), 0.5))
    same = make("keep score", "max-probability").score(coupling)
    assert same[0] == same[1]
    assert make("keep score", "expected-cost").score(coupling).tolist() == [0.0, 1.0]
