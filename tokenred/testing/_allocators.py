"""What every budget allocator has to satisfy."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import BudgetAllocator
from tokenred.testing._run import Bodies, expect, expect_close, for_all
from tokenred.testing.strategies import visual_tokens
from tokenred.testing.videos import half, without_a_say
from tokenred.types import VisualTokens

Case = tuple[VisualTokens, float]
Cues = Mapping[str, int] | None
SLACK = 1e-3
"""How far, as a share of it, the mean of all frames may lie from what was to be divided."""


def divides_what_there_is(allocator: BudgetAllocator, *, cues: Cues) -> None:
    """Every frame gets a number, none a negative one, and their mean is what was to be divided."""

    def body(case: Case) -> None:
        tokens, n_anchors = case
        given = _allocate(allocator, tokens, n_anchors)
        expect((given >= 0).all(), f"a frame gets {float(given.min()):.4g} anchors")
        if allocator.whole:
            expect((given == given.round()).all(), "numbers that are not whole")
            return
        mean = float(given.double().mean())
        expect(
            abs(mean - n_anchors) <= SLACK * max(1.0, n_anchors),
            f"{n_anchors:.4g} anchors a frame were to be divided, {mean:.4g} are",
        )

    for_all(_cases(allocator, cues, drop=False), body)
    for_all(_cases(allocator, cues), body)


def dropped_tokens_have_no_say(allocator: BudgetAllocator, *, cues: Cues) -> None:
    """What tokens look like that are no longer alive changes nothing."""

    def body(case: Case) -> None:
        tokens, n_anchors = case
        plain = _allocate(allocator, tokens, n_anchors)
        other = _allocate(allocator, without_a_say(tokens), n_anchors)
        expect_close(other, plain, "the division with other dropped tokens", 1e-4)

    for_all(_cases(allocator, cues), body)


def frames_without_tokens_are_accepted(allocator: BudgetAllocator, *, cues: Cues) -> None:
    """A frame in which nothing is alive makes no number infinite."""

    def body(case: Case) -> None:
        tokens, n_anchors = case
        keep = tokens.keep.clone()
        keep[0] = False
        _allocate(allocator, replace(tokens, keep=keep), n_anchors)

    for_all(_cases(allocator, cues), body)


def is_reproducible(allocator: BudgetAllocator, *, cues: Cues) -> None:
    """The same tokens give the same division, and nothing else is read or changed."""

    def body(case: Case) -> None:
        tokens, n_anchors = case
        features, before = tokens.features.clone(), torch.random.get_rng_state()
        first = _allocate(allocator, tokens, n_anchors)
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        expect(torch.equal(tokens.features, features), "the features were changed")
        expect(torch.equal(first, _allocate(allocator, tokens, n_anchors)), "two runs differ")

    for_all(_cases(allocator, cues), body)


def works_in_half_precision(allocator: BudgetAllocator, *, cues: Cues) -> None:
    """Half-precision features and cues are divided among as exactly."""

    def body(case: Case) -> None:
        tokens, n_anchors = case
        mean = float(_allocate(allocator, half(tokens), n_anchors).double().mean())
        expect(
            allocator.whole or abs(mean - n_anchors) <= SLACK * max(1.0, n_anchors),
            f"{n_anchors:.4g} anchors a frame were to be divided, {mean:.4g} are",
        )

    for_all(_cases(allocator, cues), body)


def _allocate(allocator: BudgetAllocator, tokens: VisualTokens, n_anchors: float) -> Tensor:
    given = allocator.allocate(tokens, n_anchors)
    expect(given.shape == tokens.keep.shape[:1], f"a division of shape {tuple(given.shape)}")
    expect(given.is_floating_point(), f"a division of dtype {given.dtype}")
    expect(bool(torch.isfinite(given).all()), "the division holds NaN or infinity")
    return given


@st.composite
def _cases(draw: st.DrawFn, allocator: BudgetAllocator, cues: Cues, *, drop: bool = True) -> Case:
    frames = draw(st.sampled_from((5, 1, 2, 9)))
    tokens = draw(visual_tokens(allocator.needs, frames=frames, drop=drop, cues=cues))
    alive = int(tokens.keep.sum(-1).min())
    return tokens, draw(st.one_of(st.integers(1, alive), st.floats(0.5, alive))) * 1.0


_BODIES = (
    divides_what_there_is,
    dropped_tokens_have_no_say,
    frames_without_tokens_are_accepted,
    is_reproducible,
    works_in_half_precision,
)


def contract(allocator: BudgetAllocator) -> Bodies:
    """Return what holds for it."""
    return _BODIES
