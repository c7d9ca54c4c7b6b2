"""What every coupler has to satisfy."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import Coupler, takes_forbidden
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import CouplingProblem, coupling_problems, generators
from tokenred.types import Coupling

ROUNDING = 1e-5
"""Allowed for float32 sums of masses that total one."""


def plan_is_non_negative_and_finite(coupler: Coupler) -> None:
    """Mass is never negative, and never NaN."""

    def body(problem: CouplingProblem) -> None:
        plan = coupler.couple(*problem).plan
        expect(plan.shape == problem.cost.shape, f"plan {plan.shape}, cost {problem.cost.shape}")
        expect_finite(plan, "the plan")
        expect((plan >= 0).all(), f"the plan holds {float(plan.min()):.3g}")

    for_all(coupling_problems(kinds=("distinct", "ties", "constant", "wide")), body)


def declared_marginals_hold_within_the_residual(coupler: Coupler) -> None:
    """The declared sums equal the masses up to ``residual``, which is not overstated either."""

    def body(problem: CouplingProblem) -> None:
        coupling = coupler.couple(*problem)
        worst = _worst_marginal(coupling, coupler.marginals)
        reported = coupling.residual.double()
        expect(
            (worst <= reported + ROUNDING).all(),
            f"declared marginals are off by {float(worst.max()):.3g}, "
            f"reported is {float(reported.max()):.3g}",
        )
        expect(
            (reported <= worst + ROUNDING).all(),
            f"a residual of {float(reported.max()):.3g} is reported, "
            f"the marginals are off by {float(worst.max()):.3g}",
        )

    for_all(coupling_problems(batch=(2,)), body)


def total_mass_is_kept(coupler: Coupler) -> None:
    """All mass is shipped where marginals are declared, and never more than there is.

    A coupler that says ``copies = True`` gives a source to several anchors, whole to each.
    """
    copies = coupler.copies
    expect(not copies or coupler.marginals == "none", "what copies mass declares no marginals")

    def body(problem: CouplingProblem) -> None:
        coupling = coupler.couple(*problem)
        if copies:
            most = problem.source_mass[..., :, None] + ROUNDING
            expect((coupling.plan <= most).all(), "an anchor gets more of a source than there is")
            return
        total = coupling.plan.double().sum((-2, -1))
        slack = ROUNDING + float(coupling.residual.max()) * max(problem.cost.shape[-2:])
        wanted = problem.source_mass.double().sum(-1)
        expect((total <= wanted + slack).all(), f"{float(total.max()):.4g} shipped of 1")
        if coupler.marginals != "none":
            expect_close(total, wanted, "total mass", slack)

    for_all(coupling_problems(), body)


def permuting_sources_permutes_rows(coupler: Coupler) -> None:
    """No source is special because of its place."""
    _equivariance(coupler, dim=-2)


def permuting_anchors_permutes_columns(coupler: Coupler) -> None:
    """No anchor is special because of its place (costs without ties)."""
    _equivariance(coupler, dim=-1)


def batch_equals_loop(coupler: Coupler) -> None:
    """A problem's plan does not depend on its batch mates."""

    def body(problem: CouplingProblem) -> None:
        together = coupler.couple(*problem)
        for item in range(3):
            alone = coupler.couple(*(part[item] for part in problem))
            slack = _slack(together, alone)
            expect_close(together.plan[item], alone.plan, f"item {item} of the batch", slack)

    for_all(coupling_problems(batch=(3,), kinds=("distinct",)), body)


def half_precision_is_computed_in_float32(coupler: Coupler) -> None:
    """Half-precision costs give a finite float32 plan."""

    def body(problem: CouplingProblem) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            half = (part.to(dtype) for part in problem)
            plan = coupler.couple(*half).plan
            expect_finite(plan, f"the plan of a {dtype} problem")
            expect(plan.dtype == torch.float32, f"the plan of a {dtype} problem is {plan.dtype}")

    for_all(coupling_problems(), body)


def float64_stays_float64(coupler: Coupler) -> None:
    """Double precision is not lost on the way."""

    def body(problem: CouplingProblem) -> None:
        plan = coupler.couple(*(part.double() for part in problem)).plan
        expect(plan.dtype == torch.float64, f"the plan of a float64 problem is {plan.dtype}")

    for_all(coupling_problems(), body)


def padding_neither_sends_nor_receives(coupler: Coupler) -> None:
    """Rows and columns of zero mass stay empty and change nothing, however cheap they are."""

    def body(case: tuple[CouplingProblem, float]) -> None:
        problem, cheap = case
        n, m = problem.cost.shape
        cost = torch.full((n + 2, m + 3), cheap)
        cost[:n, :m] = problem.cost
        pad = torch.nn.functional.pad
        padded = coupler.couple(
            cost, pad(problem.source_mass, (0, 2)), pad(problem.anchor_mass, (0, 3))
        )
        expect_finite(padded.plan, "the plan of a padded problem")
        expect((padded.plan[n:] == 0).all(), "a source without mass sends")
        expect((padded.plan[:, m:] == 0).all(), "an anchor without mass receives")
        alone = coupler.couple(*problem)
        expect_close(padded.plan[:n, :m], alone.plan, "the real part", _slack(padded, alone))

    for_all(st.tuples(coupling_problems(kinds=("distinct",)), st.sampled_from((0.0, 1.0))), body)


def nothing_goes_through_a_forbidden_pair(coupler: Coupler) -> None:
    """A pair that is forbidden gets nothing, and what could go there goes elsewhere."""
    if not takes_forbidden(coupler):
        return  # stages take back what it sends there

    def body(problem: CouplingProblem) -> None:
        n, m = problem.cost.shape
        apart = torch.zeros(n, m, dtype=torch.bool)
        if n > 1 and m > 1:
            apart.view(-1)[problem.cost.argmin()] = True
        masses = torch.full((n,), 1 / n), torch.full((m,), 1 / m)
        coupling = coupler.couple(problem.cost, *masses, apart)
        expect_finite(coupling.plan, "the plan")
        expect((coupling.plan[apart] == 0).all(), "something goes through a forbidden pair")
        if coupler.marginals == "source":
            expect_close(coupling.plan.sum(-1), masses[0], "what the sources send", ROUNDING)

    for_all(coupling_problems(), body)


def inputs_are_left_alone(coupler: Coupler) -> None:
    """``couple`` does not write into its arguments, and the same input gives the same plan."""

    def body(problem: CouplingProblem) -> None:
        before = [part.clone() for part in problem]
        first = coupler.couple(*problem).plan.clone()
        for part, copy in zip(problem, before, strict=True):
            expect(torch.equal(part, copy), "an argument was changed")
        expect(torch.equal(coupler.couple(*problem).plan, first), "two runs differ")

    for_all(coupling_problems(), body)


def one_anchor_receives_what_is_sent(coupler: Coupler) -> None:
    """With a single anchor there is only one plan."""

    def body(problem: CouplingProblem) -> None:
        if coupler.marginals in ("both", "source"):
            plan = coupler.couple(*problem).plan
            expect_close(plan[:, 0], problem.source_mass, "the only column", ROUNDING)

    for_all(coupling_problems(max_anchors=1), body)


def _equivariance(coupler: Coupler, dim: int) -> None:
    def body(case: tuple[CouplingProblem, torch.Generator]) -> None:
        problem, generator = case
        order = torch.randperm(problem.cost.shape[dim], generator=generator)
        masses = [problem.source_mass, problem.anchor_mass]
        masses[dim + 2] = masses[dim + 2][order]
        moved = coupler.couple(problem.cost.index_select(dim, order), *masses)
        plain = coupler.couple(*problem)
        wanted = plain.plan.index_select(dim, order)
        expect_close(moved.plan, wanted, "the plan of the permuted problem", _slack(moved, plain))

    for_all(st.tuples(coupling_problems(kinds=("distinct",)), generators()), body)


def _slack(first: Coupling, second: Coupling) -> float:
    """Rounding, and one sweep more or less of an iterative coupler."""
    return ROUNDING + 2 * float(first.residual.max() + second.residual.max())


def _worst_marginal(coupling: Coupling, marginals: str) -> Tensor:
    plan = coupling.plan.double()
    worst = plan.new_zeros(plan.shape[:-2])
    if marginals in ("both", "source"):
        rows = (plan.sum(-1) - coupling.source_mass.double()).abs().amax(-1)
        worst = torch.maximum(worst, rows)
    if marginals in ("both", "anchor"):
        columns = (plan.sum(-2) - coupling.anchor_mass.double()).abs().amax(-1)
        worst = torch.maximum(worst, columns)
    return worst


_BODIES = (
    plan_is_non_negative_and_finite,
    declared_marginals_hold_within_the_residual,
    total_mass_is_kept,
    permuting_sources_permutes_rows,
    permuting_anchors_permutes_columns,
    batch_equals_loop,
    half_precision_is_computed_in_float32,
    float64_stays_float64,
    padding_neither_sends_nor_receives,
    nothing_goes_through_a_forbidden_pair,
    inputs_are_left_alone,
    one_anchor_receives_what_is_sent,
)


def contract(coupler: Coupler) -> Bodies:
    """Return what holds for it."""
    return _BODIES
