"""What every keep score and every keep decision has to satisfy."""

from dataclasses import replace
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import KeepDecision, KeepScore
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import couplings, generators
from tokenred.types import Coupling

ENDS: tuple[Literal["low", "high"], ...] = ("low", "high")


def scores_every_source(score: KeepScore) -> None:
    """There is one finite number for every source."""

    def body(coupling: Coupling) -> None:
        found = score.score(coupling)
        expect(found.shape == coupling.plan.shape[:-1], f"scores of shape {tuple(found.shape)}")
        expect_finite(found, "the score")

    for_all(couplings(batch=(2,)), body)


def scores_do_not_depend_on_order(score: KeepScore) -> None:
    """Reversing sources reverses the scores; reversing anchors leaves them."""

    def body(coupling: Coupling) -> None:
        plain = score.score(coupling)
        expect_close(score.score(_flip(coupling, -2)), plain.flip(-1), "scores of reversed sources")
        expect_close(score.score(_flip(coupling, -1)), plain, "scores with reversed anchors")

    for_all(couplings(), body)


def scores_padding_finitely(score: KeepScore) -> None:
    """A source without mass has a finite score."""

    def body(coupling: Coupling) -> None:
        mass, plan = coupling.source_mass.clone(), coupling.plan.clone()
        mass[0], plan[0] = 0, 0
        expect_finite(score.score(replace(coupling, source_mass=mass, plan=plan)), "the score")

    for_all(couplings(), body)


def padding_changes_no_score(score: KeepScore) -> None:
    """A source without mass has no say in the scores of the others."""

    def body(coupling: Coupling) -> None:
        pad = torch.nn.functional.pad
        padded = replace(
            coupling,
            plan=pad(coupling.plan, (0, 0, 0, 2)),
            cost=pad(coupling.cost, (0, 0, 0, 2)),
            source_mass=pad(coupling.source_mass, (0, 2)),
            terms={name: pad(term, (0, 0, 0, 2)) for name, term in coupling.terms.items()},
        )
        plain = score.score(coupling)
        expect_close(score.score(padded)[..., : plain.shape[-1]], plain, "scores beside padding")

    for_all(couplings(), body)


def decides_for_every_source(decision: KeepDecision) -> None:
    """There is one bool for every source, and the scores are left alone."""

    def body(case: tuple[Tensor, int]) -> None:
        score, n_keep = case
        before = score.clone()
        for keep in ENDS:
            found = decision.decide(score, keep=keep, n_keep=n_keep)
            expect(found.dtype == torch.bool, f"a decision of dtype {found.dtype}")
            expect(found.shape == score.shape, f"a decision of shape {tuple(found.shape)}")
        expect(torch.equal(score, before), "the scores were changed")

    for_all(_scores(), body)


def keeps_the_right_end(decision: KeepDecision) -> None:
    """No dropped source lies further at the kept end than a kept one."""

    def body(case: tuple[Tensor, int]) -> None:
        score, n_keep = case
        for keep, sign in zip(ENDS, (1, -1), strict=True):
            kept = decision.decide(score, keep=keep, n_keep=n_keep)
            signed = sign * score
            worst_kept = signed.masked_fill(~kept, -torch.inf).amax(-1)
            best_dropped = signed.masked_fill(kept, torch.inf).amin(-1)
            expect((worst_kept <= best_dropped).all(), f"a source beyond the {keep} ones is kept")

    for_all(_scores(), body)


def exact_keeps_its_quota(decision: KeepDecision) -> None:
    """``exact = True`` promises ``n_keep`` sources in every row, ties or not."""

    def body(case: tuple[Tensor, int]) -> None:
        score, n_keep = case
        if decision.exact:
            for keep in ENDS:
                counts = decision.decide(score, keep=keep, n_keep=n_keep).sum(-1)
                expect((counts == n_keep).all(), f"{counts.tolist()} kept, the quota is {n_keep}")

    for_all(_scores(), body)


def works_without_a_quota(decision: KeepDecision) -> None:
    """A decision that is not exact needs no quota."""

    def body(case: tuple[Tensor, int]) -> None:
        score, _ = case
        if not decision.exact:
            for keep in ENDS:
                found = decision.decide(score, keep=keep, n_keep=None)
                expect(found.shape == score.shape, f"a decision of shape {tuple(found.shape)}")

    for_all(_scores(), body)


@st.composite
def _scores(draw: st.DrawFn) -> tuple[Tensor, int]:
    sources = draw(st.integers(1, 12))
    score = torch.rand(2, sources, generator=draw(generators()))
    if draw(st.booleans()):
        score = (3 * score).round() / 3
    return score, draw(st.integers(0, sources))


def _flip(coupling: Coupling, dim: int) -> Coupling:
    mass = "source_mass" if dim == -2 else "anchor_mass"
    return replace(
        coupling,
        plan=coupling.plan.flip(dim),
        cost=coupling.cost.flip(dim),
        terms={name: term.flip(dim) for name, term in coupling.terms.items()},
        **{mass: getattr(coupling, mass).flip(-1)},
    )


_SCORE = (
    scores_every_source,
    scores_do_not_depend_on_order,
    scores_padding_finitely,
    padding_changes_no_score,
)
_DECISION = (
    decides_for_every_source,
    keeps_the_right_end,
    exact_keeps_its_quota,
    works_without_a_quota,
)


def contract(strategy: KeepScore | KeepDecision) -> Bodies:
    """Return what holds for a score, or a decision."""
    return _SCORE if isinstance(strategy, KeepScore) else _DECISION
