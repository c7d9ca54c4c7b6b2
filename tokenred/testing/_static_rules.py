"""What every static rule has to satisfy."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import StaticRule
from tokenred.testing._run import Bodies, expect, for_all
from tokenred.testing.strategies import frame_tokens

MAX_FRAMES = 9


def answers_for_every_place(rule: StaticRule) -> None:
    """There is one bool for every place of the grid, and the features are left alone."""

    def body(window: Tensor) -> None:
        before = window.clone()
        _answer(rule, window)
        expect(torch.equal(window, before), "the features were changed")

    for_all(_windows(), body)


def stills_are_static(rule: StaticRule) -> None:
    """Where all frames are equal, nothing changes."""

    def body(window: Tensor) -> None:
        still = window[:1].expand_as(window).clone()
        expect(_answer(rule, still).all(), "a place that never changes is not static")

    for_all(_windows(), body)


def what_turns_round_is_not_static(rule: StaticRule) -> None:
    """A token that points the other way in every second frame is not static."""

    def body(window: Tensor) -> None:
        sign = torch.tensor([1.0, -1.0]).repeat(len(window))[: len(window), None, None]
        turning = sign * window[:1]
        expect(not _answer(rule, turning).any(), "a place that turns round is static")

    for_all(_windows(), body)


def is_reproducible(rule: StaticRule) -> None:
    """The same features get the same answer, and the global random state is left alone."""

    def body(window: Tensor) -> None:
        before = torch.random.get_rng_state()
        first = _answer(rule, window)
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        expect(torch.equal(first, _answer(rule, window)), "two runs differ")

    for_all(_windows(), body)


def works_in_half_precision(rule: StaticRule) -> None:
    """Half-precision features are accepted; what never changes is static there, too."""

    def body(window: Tensor) -> None:
        for dtype in (torch.float16, torch.bfloat16):
            _answer(rule, window.to(dtype))
            still = window[:1].expand_as(window).to(dtype)
            expect(_answer(rule, still).all(), f"{dtype}: a place that never changes is not static")

    for_all(_windows(), body)


def empty_features_are_accepted(rule: StaticRule) -> None:
    """Tokens that are all zero get an answer, and change none of the others."""

    def body(window: Tensor) -> None:
        holed = window.clone()
        holed[:, 0] = 0
        expect(
            torch.equal(_answer(rule, holed)[1:], _answer(rule, window)[1:]),
            "a token that is all zero changes the answer for others",
        )

    for_all(_windows(), body)


def _answer(rule: StaticRule, window: Tensor) -> Tensor:
    found = rule.static(window)
    expect(found.dtype == torch.bool, f"an answer of dtype {found.dtype}")
    expect(found.shape == window.shape[1:2], f"an answer of shape {tuple(found.shape)}")
    return found


def _windows() -> st.SearchStrategy[Tensor]:
    return st.integers(2, MAX_FRAMES).flatmap(frame_tokens)


_BODIES = (
    answers_for_every_place,
    stills_are_static,
    what_turns_round_is_not_static,
    is_reproducible,
    works_in_half_precision,
    empty_features_are_accepted,
)


def contract(rule: StaticRule) -> Bodies:
    """Return what holds for it."""
    return _BODIES
