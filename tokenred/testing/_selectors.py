"""What every anchor selector has to satisfy."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from hypothesis import strategies as st
from jaxtyping import Bool
from torch import Tensor

from tokenred.interfaces import AnchorSelector
from tokenred.testing._run import Bodies, expect, for_all
from tokenred.testing.strategies import SEEDS, visual_tokens
from tokenred.testing.videos import cut_at, half, without_a_say
from tokenred.types import VisualTokens

Case = tuple[VisualTokens, int, int]
"""Tokens, number of anchors, seed."""
Cues = Mapping[str, int] | None


def anchor_mask(
    selector: AnchorSelector, tokens: VisualTokens, n_anchors: int, seed: int = 0
) -> Bool[Tensor, "frames tokens"]:
    """Run a selector and return its choice as a mask, after checking its form.

    Frames with fewer anchors than others have -1 behind their indices.

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
    expect(((chosen >= -1) & (chosen < n_tokens)).all(), "an index out of range")
    real = chosen >= 0
    expect((real[:, 1:] <= real[:, :-1]).all(), "padding before an index")
    counts = torch.nn.functional.one_hot(chosen.long() + 1, n_tokens + 1).sum(1)[:, 1:]
    expect((counts <= 1).all(), "a token is chosen twice")
    return counts == 1


def chooses_the_number_asked_for(selector: AnchorSelector, *, cues: Cues) -> None:
    """Indices are unique and in range, as many in every frame as asked for."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        counts = anchor_mask(selector, tokens, n_anchors, seed).sum(-1)
        holds = counts == n_anchors if not selector.adaptive else counts <= n_anchors
        expect(holds.all(), f"{n_anchors} anchors asked for, {counts.tolist()} chosen")

    _for_all_cases(selector, cues, body, drop=False)


def leaves_dropped_tokens_alone(selector: AnchorSelector, *, cues: Cues) -> None:
    """Only tokens that are still alive become anchors."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        mask = anchor_mask(selector, tokens, n_anchors, seed)
        expect(not (mask & ~tokens.keep).any(), "a token that was dropped before is chosen")
        if not selector.adaptive:
            counts = mask.sum(-1)
            expect((counts == n_anchors).all(), f"{n_anchors} asked for, {counts.tolist()} chosen")

    _for_all_cases(selector, cues, body, drop=True)


def dropped_tokens_have_no_say(selector: AnchorSelector, *, cues: Cues) -> None:
    """What tokens look like that are no longer alive changes nothing."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        plain = anchor_mask(selector, tokens, n_anchors, seed)
        other = anchor_mask(selector, without_a_say(tokens), n_anchors, seed)
        expect(torch.equal(plain, other), "other dropped tokens change the anchors")

    _for_all_cases(selector, cues, body, drop=True)


def says_that_it_looks_across_frames(selector: AnchorSelector, *, cues: Cues) -> None:
    """Without ``looks_across_frames = True`` a frame has the same anchors when it stands alone."""
    across = selector.looks_across_frames

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        generator = torch.Generator().manual_seed(seed)
        selector.select(tokens, n_anchors, generator=generator)
        start = torch.Generator().manual_seed(seed).get_state()
        if across or not torch.equal(generator.get_state(), start):
            return  # what is drawn at random falls out otherwise for another number of frames
        whole = anchor_mask(selector, tokens, n_anchors, seed)
        for frame in range(len(tokens.keep)):
            alone = anchor_mask(selector, _frame(tokens, frame), n_anchors, seed)
            expect(torch.equal(whole[frame], alone[0]), f"frame {frame} depends on the others")

    _for_all_cases(selector, cues, body, drop=False)


def is_reproducible(selector: AnchorSelector, *, cues: Cues) -> None:
    """The same generator state gives the same anchors, and the tokens are left alone."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        features = tokens.features.clone()
        cue_values = {name: cue.clone() for name, cue in tokens.cues.items()}
        first = anchor_mask(selector, tokens, n_anchors, seed)
        second = anchor_mask(selector, tokens, n_anchors, seed)
        expect(torch.equal(first, second), "two runs differ")
        expect(torch.equal(tokens.features, features), "the features were changed")
        for name, before in cue_values.items():
            expect(torch.equal(tokens.cues[name], before), f"the cue {name} was changed")

    _for_all_cases(selector, cues, body, drop=False)


def draws_from_its_generator_only(selector: AnchorSelector, *, cues: Cues) -> None:
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

    _for_all_cases(selector, cues, body, drop=False)


def works_in_half_precision(selector: AnchorSelector, *, cues: Cues) -> None:
    """Half-precision features and cues are accepted."""

    def body(case: Case) -> None:
        tokens, n_anchors, seed = case
        counts = anchor_mask(selector, half(tokens), n_anchors, seed).sum(-1)
        holds = counts == n_anchors if not selector.adaptive else counts <= n_anchors
        expect(holds.all(), f"{n_anchors} anchors asked for, {counts.tolist()} chosen")

    _for_all_cases(selector, cues, body, drop=False)


def _frame(tokens: VisualTokens, frame: int) -> VisualTokens:
    one = slice(frame, frame + 1)
    return replace(
        tokens,
        features=tokens.features[one],
        keep=tokens.keep[one],
        frame_times=tokens.frame_times[one],
        cues={name: cue[one] for name, cue in tokens.cues.items()},
        segments=None,
    )


def _for_all_cases(
    selector: AnchorSelector, cues: Cues, body: Callable[[Case], None], *, drop: bool
) -> None:
    def run(case: Case) -> None:
        tokens, n_anchors, seed = case
        body((cut_at(tokens, seed), n_anchors, seed))

    for_all(_cases(selector, cues, drop=drop), run)


@st.composite
def _cases(draw: st.DrawFn, selector: AnchorSelector, cues: Cues, *, drop: bool) -> Case:
    frames = draw(st.sampled_from((3, 1, 2)))
    tokens = draw(visual_tokens(selector.needs, frames=frames, drop=drop, cues=cues))
    counts = tokens.keep.sum(-1)
    fewest = max(1, math.ceil(selector.keeps_at_least * int(counts.max())))
    if fewest > int(counts.min()):  # what every frame can give
        tokens = replace(tokens, keep=tokens.keep[:1].expand_as(tokens.keep).clone())
        counts = tokens.keep.sum(-1)
        fewest = max(1, math.ceil(selector.keeps_at_least * int(counts.max())))
    return tokens, draw(st.integers(fewest, int(counts.min()))), draw(SEEDS)


_BODIES = (
    chooses_the_number_asked_for,
    leaves_dropped_tokens_alone,
    dropped_tokens_have_no_say,
    says_that_it_looks_across_frames,
    is_reproducible,
    draws_from_its_generator_only,
    works_in_half_precision,
)


def contract(selector: AnchorSelector) -> Bodies:
    """Return what holds for it."""
    return _BODIES
