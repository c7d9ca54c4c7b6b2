"""What every anchor selector has to satisfy."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from hypothesis import strategies as st
from jaxtyping import Bool
from torch import Tensor

from tokenred.interfaces import AnchorSelector
from tokenred.testing._run import Check, collect, expect, for_all
from tokenred.testing.strategies import SEEDS, visual_tokens
from tokenred.types import VisualTokens

Case = tuple[VisualTokens, int, int]
"""Tokens, number of anchors, seed."""


def selector_checks(
    selector: AnchorSelector, *, exact: bool = True, cues: Mapping[str, int] | None = None
) -> Iterator[Check]:
    """Yield the contract of a selector as named checks without arguments.

    Parameters
    ----------
    exact : False for a selector whose number of anchors follows from the data; it may then choose
        fewer than asked for
    cues : width of cues of your own by name
    """
    return collect(selector, _BODIES, exact=exact, cues=cues)


def anchor_mask(
    selector: AnchorSelector, tokens: VisualTokens, n_anchors: int, seed: int = 0
) -> Bool[Tensor, "frames tokens"]:
    """Run a selector and return its choice as a mask, after checking its form.

    Raises
    ------
    AssertionError
        If an index is out of range or chosen twice, or a mask has the wrong shape.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = selector.select(tokens, n_anchors, generator=generator)
    frames, n_tokens = tokens.keep.shape
    if chosen.dtype == torch.bool:
        expect(chosen.shape == tokens.keep.shape, f"a mask of shape {tuple(chosen.shape)}")
        return chosen
    expect(not chosen.is_floating_point(), f"indices of dtype {chosen.dtype}")
    expect(chosen.ndim == 2 and len(chosen) == frames, f"indices of shape {tuple(chosen.shape)}")
    expect(((chosen >= 0) & (chosen < n_tokens)).all(), "an index out of range")
    mask = torch.zeros_like(tokens.keep).scatter(-1, chosen.long(), True)
    expect((mask.sum(-1) == chosen.shape[1]).all(), "a token is chosen twice")
    return mask


def is_a_selector(selector: AnchorSelector, *, exact: bool, cues: Mapping[str, int] | None) -> None:
    """The object has the interface, and ``needs`` is a frozenset of names."""
    expect(isinstance(selector, AnchorSelector), f"{selector!r} has no `select` or no `needs`")
    expect(isinstance(selector.needs, frozenset), f"needs is {selector.needs!r}, not a frozenset")


def chooses_the_number_asked_for(
    selector: AnchorSelector, *, exact: bool, cues: Mapping[str, int] | None
) -> None:
    """Indices are unique and in range, as many in every frame as asked for."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        counts = anchor_mask(selector, tokens, n_anchors, seed).sum(-1)
        holds = counts == n_anchors if exact else counts <= n_anchors
        expect(holds.all(), f"{n_anchors} anchors asked for, {counts.tolist()} chosen")

    for_all(_cases(selector, cues, drop=False), body)


def leaves_dropped_tokens_alone(
    selector: AnchorSelector, *, exact: bool, cues: Mapping[str, int] | None
) -> None:
    """Only tokens that are still alive become anchors."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        mask = anchor_mask(selector, tokens, n_anchors, seed)
        expect(not (mask & ~tokens.keep).any(), "a token that was dropped before is chosen")
        if exact:
            counts = mask.sum(-1)
            expect((counts == n_anchors).all(), f"{n_anchors} asked for, {counts.tolist()} chosen")

    for_all(_cases(selector, cues, drop=True), body)


def is_reproducible(
    selector: AnchorSelector, *, exact: bool, cues: Mapping[str, int] | None
) -> None:
    """The same generator state gives the same anchors."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        first = anchor_mask(selector, tokens, n_anchors, seed)
        expect(
            torch.equal(first, anchor_mask(selector, tokens, n_anchors, seed)), "two runs differ"
        )

    for_all(_cases(selector, cues, drop=False), body)


def draws_from_its_generator_only(
    selector: AnchorSelector, *, exact: bool, cues: Mapping[str, int] | None
) -> None:
    """The global random state is neither read nor moved."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        before = torch.random.get_rng_state()
        first = anchor_mask(selector, tokens, n_anchors, seed)
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            second = anchor_mask(selector, tokens, n_anchors, seed)
        expect(torch.equal(first, second), "the global state changes the anchors")

    for_all(_cases(selector, cues, drop=False), body)


def works_in_half_precision(
    selector: AnchorSelector, *, exact: bool, cues: Mapping[str, int] | None
) -> None:
    """Half-precision features and cues are accepted."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        half = replace(
            tokens,
            features=tokens.features.bfloat16(),
            cues={name: cue.bfloat16() for name, cue in tokens.cues.items()},
        )
        counts = anchor_mask(selector, half, n_anchors, seed).sum(-1)
        holds = counts == n_anchors if exact else counts <= n_anchors
        expect(holds.all(), f"{n_anchors} anchors asked for, {counts.tolist()} chosen")

    for_all(_cases(selector, cues, drop=False), body)


@st.composite
def _cases(
    draw: st.DrawFn, selector: AnchorSelector, cues: Mapping[str, int] | None, *, drop: bool
) -> Case:
    tokens = draw(visual_tokens(selector.needs, drop=drop, cues=cues))
    alive = int(tokens.keep.sum(-1).min())
    return tokens, draw(st.integers(1, alive)), draw(SEEDS)


_BODIES = (
    is_a_selector,
    chooses_the_number_asked_for,
    leaves_dropped_tokens_alone,
    is_reproducible,
    draws_from_its_generator_only,
    works_in_half_precision,
)
