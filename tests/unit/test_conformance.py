"""The conformance suite accepts the built-ins (tests/property) and refuses what is broken."""

import pytest
import torch

from tokenred.config import build, strategy_config
from tokenred.strategies.couplers.exact import ExactConfig, ExactCoupler
from tokenred.strategies.couplers.sinkhorn import SinkhornConfig, SinkhornCoupler
from tokenred.testing import (
    aggregator_checks,
    anchor_mask,
    cost_term_checks,
    coupler_checks,
    keep_checks,
    known_problems,
    parametrize_coupler_checks,
    segmenter_checks,
    selector_checks,
)
from tokenred.types import Coupling, MergeWeights, Segments


def broken(checks, like=""):
    """Return the names of the checks that do not hold, among those whose name contains ``like``."""
    names = set()
    for check in checks:
        if like not in check.name:
            continue
        try:
            check()
        except AssertionError:
            names.add(check.name)
    return names


class Nearest:
    marginals = "source"
    nudge = 0.0

    def couple(self, cost, source_mass, anchor_mass):
        dtype = torch.promote_types(cost.dtype, torch.float32)
        real = cost.masked_fill((anchor_mass <= 0)[..., None, :], torch.inf)
        choice = torch.nn.functional.one_hot(real.argmin(-1), cost.shape[-1]).to(dtype)
        plan = choice * source_mass.to(dtype)[..., :, None]
        return Coupling.direct(self.change(plan, source_mass), cost, source_mass, anchor_mass)

    def change(self, plan, source_mass):
        return plan


def coupler(change, **facts):
    return type("Broken", (Nearest,), {"change": change, **facts})()


def test_the_unbroken_ones_are_accepted():
    assert broken(coupler_checks(Nearest())) == set()
    assert broken(selector_checks(First())) == set()
    assert broken(aggregator_checks(Average())) == set()
    assert broken(segmenter_checks(Halves())) == set()


def first_row_only(self, plan, mass):
    index = torch.arange(plan.shape[-2])
    return plan * (index == 0)[:, None]


def batch_mean(self, plan, mass):
    return plan.mean(0, keepdim=True).expand_as(plan) if plan.ndim == 3 else plan


def fill_padding(self, plan, mass):
    return torch.where((mass <= 0)[..., None], torch.full_like(plan, 0.1), plan)


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        (coupler(lambda s, p, m: p - 0.01), "plan_is_non_negative_and_finite"),
        (coupler(lambda s, p, m: p / 0.0), "plan_is_non_negative_and_finite"),
        (coupler(lambda s, p, m: p * 0.9), "declared_marginals_hold_within_the_residual"),
        (
            coupler(lambda s, p, m: p, marginals="both"),
            "declared_marginals_hold_within_the_residual",
        ),
        (coupler(lambda s, p, m: p * 1.1, marginals="none"), "total_mass_is_kept"),
        (coupler(first_row_only), "permuting_sources_permutes_rows"),
        (coupler(lambda s, p, m: p.flip(-1)), "permuting_anchors_permutes_columns"),
        (coupler(batch_mean), "batch_equals_loop"),
        (coupler(lambda s, p, m: p.half()), "half_precision_is_computed_in_float32"),
        (coupler(lambda s, p, m: p.float()), "float64_stays_float64"),
        (coupler(fill_padding), "padding_neither_sends_nor_receives"),
        (coupler(lambda s, p, m: m.mul_(0.5)[..., None] * p), "inputs_are_left_alone"),
        (coupler(lambda s, p, m: p * torch.rand(())), "inputs_are_left_alone"),
        (coupler(lambda s, p, m: p * 0.5), "one_anchor_receives_what_is_sent"),
        (coupler(lambda s, p, m: p, marginals="sources"), "is_a_coupler"),
    ],
)
def test_a_broken_coupler_is_refused(subject, fault):
    assert fault in broken(coupler_checks(subject), fault)


def test_an_overstated_residual_is_refused():
    class Modest(SinkhornCoupler):
        def couple(self, cost, source_mass, anchor_mass):
            found = super().couple(cost, source_mass, anchor_mass)
            return type(found)(**{**vars(found), "residual": found.residual + 0.5})

    assert broken(coupler_checks(Modest(SinkhornConfig())), "marginals")


class First:
    """Select the first tokens that are alive."""

    needs = frozenset()

    def select(self, tokens, n_anchors, *, generator):
        return (~tokens.keep).float().argsort(dim=-1, stable=True)[:, :n_anchors]


def selector(choose):
    return type("Broken", (First,), {"select": choose})()


def first(self, tokens, n_anchors, *, generator):
    return First.select(self, tokens, n_anchors, generator=generator)


@pytest.mark.parametrize(
    ("choose", "fault"),
    [
        (lambda s, t, n, generator: first(s, t, n, generator=generator)[:, :1], "number"),
        (lambda s, t, n, generator: 0 * first(s, t, n, generator=generator), "number"),
        (lambda s, t, n, generator: first(s, t, n, generator=generator) - 1, "number"),
        (lambda s, t, n, generator: torch.arange(n).expand(len(t.keep), -1), "dropped"),
        (lambda s, t, n, generator: torch.rand(t.keep.shape).argsort(-1)[:, :n], "reproducible"),
        (lambda s, t, n, generator: torch.rand(t.keep.shape).argsort(-1)[:, :n], "generator"),
        (lambda s, t, n, generator: first(s, t, n, generator=generator).float(), "number"),
    ],
)
def test_a_broken_selector_is_refused(choose, fault):
    assert broken(selector_checks(selector(choose)), fault)


def test_fewer_anchors_are_fine_for_a_selector_that_says_so():
    half = selector(lambda s, t, n, generator: first(s, t, n, generator=generator)[:, : n // 2])
    assert broken(selector_checks(half), "number")
    assert broken(selector_checks(half, exact=False)) == set()


def test_anchor_mask_reads_indices_and_masks_alike():
    from tokenred.types import VisualTokens

    tokens = VisualTokens.of(torch.randn(2, 6, 3), (2, 3))
    by_index = anchor_mask(First(), tokens, 2)
    masks = selector(lambda s, t, n, generator: by_index)
    assert by_index.tolist() == [[True, True, False, False, False, False]] * 2
    assert torch.equal(anchor_mask(masks, tokens, 2), by_index)


class Average:
    merges = True

    def weights(self, coupling):
        total = 1 + coupling.plan.sum(-2)
        return MergeWeights(*self.change(1 / total, coupling.plan / total[..., None, :]))

    def change(self, anchor, source):
        return anchor, source


@pytest.mark.parametrize(
    ("change", "merges", "fault"),
    [
        (lambda s, a, w: (a, 2 * w), True, "averages_stay_in_the_convex_hull"),
        (lambda s, a, w: (a + 0.1, w), True, "constant_features_stay_constant"),
        (lambda s, a, w: (a, w[..., :-1, :]), True, "weights_fit_the_coupling"),
        (lambda s, a, w: (a, w + 0.01), True, "massless_sources_do_not_count"),
        (lambda s, a, w: (a, w), False, "without_merging_anchors_stay"),
        (lambda s, a, w: (a * 0 + 1, w * 0), True, "without_merging_anchors_stay"),
    ],
)
def test_a_broken_aggregator_is_refused(change, merges, fault):
    subject = type("Broken", (Average,), {"change": change, "merges": merges})()
    assert fault in broken(aggregator_checks(subject), fault)


def test_sums_are_fine_for_an_aggregator_that_says_so():
    subject = type("Sum", (Average,), {"change": lambda s, a, w: (a * 0 + 1, w)})()
    assert broken(aggregator_checks(subject), "convex_hull")
    assert broken(aggregator_checks(subject, averages=False)) == set()


class Halves:
    static = True

    def segment(self, descriptors, *, frame_times=None):
        frames = len(descriptors)
        return Segments((0, frames) if frames == 1 else (0, frames // 2, frames))


def test_a_broken_segmenter_is_refused():
    class ShortByOne(Halves):
        def segment(self, descriptors, *, frame_times=None):
            return Segments((0, max(1, len(descriptors) - 1)))

    class SaysStatic(Halves):
        def segment(self, descriptors, *, frame_times=None):
            cut = 1 + int(descriptors.abs().sum() * 1000) % max(1, len(descriptors) - 1)
            return Segments(
                (0, len(descriptors)) if len(descriptors) == 1 else (0, cut, len(descriptors))
            )

    assert broken(segmenter_checks(ShortByOne()), "every_length")
    assert broken(segmenter_checks(SaysStatic())) == {"static_ignores_content"}


def test_a_broken_cost_term_is_refused():
    class Dot:
        def cost(self, sources, anchors):
            return sources.features @ anchors.features.mT

    class Cosine:
        def cost(self, sources, anchors):
            left, right = sources.features, anchors.features
            return (
                left @ right.mT / (left.norm(dim=-1)[..., None] * right.norm(dim=-1)[..., None, :])
            )

    assert broken(cost_term_checks(Dot()), "half_precision")
    assert broken(cost_term_checks(Cosine()), "empty_features")


def test_a_broken_keep_rule_is_refused():
    class WrongEnd:
        exact = True

        def decide(self, score, *, keep, n_keep):
            order = score.argsort(dim=-1, descending=keep == "low", stable=True)[..., :n_keep]
            return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)

    class Raw:
        keep = "low"

        def score(self, coupling):
            return coupling.plan.amax(-1) / coupling.plan.sum(-1)

    assert broken(keep_checks(WrongEnd())) == {"keeps_the_right_end"}
    assert broken(keep_checks(Raw())) == {"scores_padding_finitely"}


@parametrize_coupler_checks(build("coupler", strategy_config("coupler", "nearest")))
def test_the_decorator_gives_one_named_test_for_each_check(check, request):
    assert check.name in request.node.name
    check()


@pytest.mark.parametrize("problem", known_problems(), ids=lambda problem: problem.name)
def test_known_problems_know_their_answers(problem):
    exact = ExactCoupler(ExactConfig()).couple(
        problem.cost, problem.source_mass, problem.anchor_mass
    )
    assert float((exact.plan * problem.cost).sum()) == pytest.approx(problem.value, abs=1e-12)
    if problem.exact_plan is not None:
        torch.testing.assert_close(exact.plan, problem.exact_plan)
    if problem.entropic_plan is not None:
        config = SinkhornConfig(epsilon=0.3, max_iter=2000, tolerance=1e-12)
        plan = (
            SinkhornCoupler(config)
            .couple(problem.cost, problem.source_mass, problem.anchor_mass)
            .plan
        )
        torch.testing.assert_close(plan, problem.entropic_plan(0.3), atol=1e-9, rtol=1e-7)
