"""FastVID: who gets how many tokens, what is merged how often, and budgets that are met."""

import math

import pytest
import torch
from tokenred_methods.fastvid.context import FastvidContextAllocator, FastvidContextConfig
from tokenred_methods.fastvid.salient import FastvidSalientAllocator, FastvidSalientConfig

from tokenred import CapabilityError, InputError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens
from tokenred.types import Segments

SANE = ("fastvid", "fastvid-pooler", "fastvid-qwen")
RELEASED = ("fastvid-released", "fastvid-released-llava-video", "fastvid-released-qwen")
SWAPS = {
    "selector": {"context.selector": "uniform-grid"},
    "salient selector": {"salient.selector": "random"},
    "coupler": {
        "context.coupler": {"name": "sinkhorn", "last": "source"},
        "context.aggregator": "row-normalised",
    },
    "aggregator": {"context.aggregator": "mean"},
    "no merging": {"context.aggregator": "keep-only"},
    "segmenter": {"segments.segmenter": {"name": "fixed-length", "segment_frames": 5}},
    "allocator": {"context.allocator": "equal"},
    "scope": {"context.scope": "frame"},
}
ALIKE = torch.tensor([[1.0, 0.0]])
OTHER = torch.tensor([[0.0, 1.0]])


@parametrize_checks(FastvidSalientAllocator(FastvidSalientConfig()))
def test_salient_contract(check):
    check()


@parametrize_checks(FastvidSalientAllocator(FastvidSalientConfig(ignore=0.3)))
def test_salient_contract_where_frames_are_alike(check):
    check()


@parametrize_checks(FastvidContextAllocator(FastvidContextConfig()))
def test_context_contract(check):
    check()


def video(frames, tokens=20, bounds=None, pinned=None):
    """Return a video cut at ``bounds``, in which ``pinned`` tokens of each frame are not open."""
    keep = torch.ones(frames, tokens, dtype=torch.bool)
    for frame, n in enumerate(pinned or [0] * frames):
        keep[frame, :n] = False
    return VisualTokens(
        torch.zeros(frames, tokens, 2),
        (1, tokens),
        keep,
        torch.arange(frames).float(),
        segments=None if bounds is None else Segments(bounds),
    )


def salient(tokens, n, **settings):
    return FastvidSalientAllocator(FastvidSalientConfig(**settings)).allocate(tokens, n).tolist()


def context(tokens, n, **settings):
    return FastvidContextAllocator(FastvidContextConfig(**settings)).allocate(tokens, n).tolist()


def test_every_fourth_frame_from_the_end_of_each_segment_is_an_anchor_frame():
    tokens = video(9, bounds=(0, 6, 9))
    assert context(tokens, 2.0) == [0, 6, 0, 0, 0, 6, 0, 0, 6]
    assert context(tokens, 2.0, every=3) == [0, 0, 6, 0, 0, 6, 0, 0, 6]


def test_anchor_frames_are_counted_among_frames_that_hold_tokens():
    tokens = video(6, pinned=[3, 0, 3, 0, 0, 3])
    assert context(tokens, 1.0, every=2) == [3, 0, 0, 0, 0, 3]
    assert context(tokens, 1.0, every=2, released="onevision") == [0, 2, 0, 2, 0, 2]


def test_each_release_divides_another_way():
    tokens = video(7, tokens=30, bounds=(0, 6, 7))
    fraction = context(tokens, 3.6)
    assert fraction == pytest.approx([0, 10.8, 0, 0, 0, 10.8, 3.6])
    rounded_twice = context(tokens, 3.6, released="onevision")
    assert rounded_twice == [0, 9, 0, 0, 0, 9, 3]
    last_frame_first = context(tokens, 3.6, released="llava-video")
    assert last_frame_first == [0, 10, 0, 0, 0, 11, 3]


def test_released_salient_tokens_go_to_the_first_frames():
    tokens = video(7, bounds=(0, 6, 7))
    assert salient(tokens, 5.4, released="llava-video") == [6, 6, 6, 5, 5, 5, 6]
    assert salient(tokens, 5.4) == [pytest.approx(5.4)] * 7


def test_releases_fail_where_they_fail():
    tokens = video(8)
    with pytest.raises(InputError, match="no context token"):
        context(tokens, 0.8, released="onevision")
    for form in ("onevision", "llava-video"):
        with pytest.raises(InputError, match="24 context tokens asked for, frame 7 has 20"):
            context(tokens, 6.0, released=form)
    assert context(tokens, 6.0, released="qwen2.5-vl") == [0, 0, 0, 10, 0, 0, 0, 10]
    assert context(tokens, 0.1, released="qwen2.5-vl") == [0, 0, 0, 0, 0, 0, 0, 1]


def scenes(pooler=None):
    """Return five frames: three alike, then two alike."""
    tokens = video(5, tokens=10)
    shown = torch.cat([ALIKE, ALIKE, ALIKE, OTHER, OTHER])
    cues = {} if pooler is None else {"pooler": pooler}
    return VisualTokens.of(shown[:, None].expand(5, 10, 2), (1, 10), cues=cues), tokens


def test_of_frames_alike_only_the_last_gets_tokens():
    tokens, _ = scenes()
    assert salient(tokens, 2.0, ignore=0.9) == [0, 0, 5, 0, 5]
    assert salient(tokens, 2.0) == [2, 2, 2, 2, 2]
    assert salient(tokens, 2.0, ignore=-1) == [0, 0, 0, 0, 10]


def test_frames_can_be_compared_by_the_pooling_head():
    allocator = FastvidSalientAllocator(FastvidSalientConfig(ignore=0.9, descriptor="pooler"))
    assert allocator.needs == {"pooler"}
    tokens, _ = scenes(pooler=torch.cat([ALIKE, OTHER, ALIKE, ALIKE, OTHER]))
    assert allocator.allocate(tokens, 4.0).tolist() == [5, 5, 0, 5, 5]
    with pytest.raises(CapabilityError, match="pooler"):
        allocator.allocate(scenes()[0], 4.0)


def test_released_qwen_caps_what_a_frame_keeps():
    _, tokens = scenes()
    # 3 tokens a frame, 15 in all: 6 context tokens, of which a frame takes 5, and 9 salient ones.
    asked = {"released": "qwen2.5-vl", "ignore": -1}
    assert salient(tokens, 1.8, **asked) == [0, 0, 0, 0, 5]
    assert context(video(5, 10, pinned=[0, 0, 0, 0, 5]), 1.2, released="qwen2.5-vl")[-1] == 5
    # A context share that comes to nothing still makes one token, which salient ones give up.
    assert salient(tokens, 0.2 * 0.99, released="qwen2.5-vl", ignore=-1, context=0.01)[-1] == 0


def tower(frames=32, pool="bilinear", name="fastvid", side=27, seed=0):
    needs = load_pipeline(name).needs
    return video_tokens(frames, (side, side), needs=needs, dim=8, native_pool=pool, seed=seed)


@pytest.mark.parametrize("name", SANE)
@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize(("pool", "frames", "cells"), [("bilinear", 32, 196), ("average", 6, 169)])
def test_budgets_are_met_exactly(name, ratio, pool, frames, cells):
    pipeline = load_pipeline(name, {"budget.retention_ratio": ratio})
    realised = pipeline.run(tower(frames, pool, name)).realised
    assert realised.n_tokens == frames * math.ceil(round(cells * ratio, 9))


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", SANE)
def test_any_part_can_be_swapped(name, swap):
    tokens = tower(12, "none", name, side=8)
    ratio = {"budget.retention_ratio": 0.2, "segments.segmenter.min_segments": 3}
    ratio["segments.segmenter.tau"] = 0.0
    whole = load_pipeline(name, ratio).run(tokens)
    swapped = SWAPS[swap]
    if "segments.segmenter" in swapped:
        ratio = {"budget.retention_ratio": 0.2}
    other = load_pipeline(name, {**ratio, **swapped}).run(tokens)
    assert other.realised.n_tokens == whole.realised.n_tokens == 12 * 13
    assert not torch.equal(whole.features, other.features)


@pytest.mark.parametrize("name", [*SANE, *RELEASED])
@pytest.mark.parametrize("pool", ["none", "bilinear"])
def test_the_trace_explains_every_token(name, pool):
    tokens = tower(16, pool, name, side=12)
    reduced = load_pipeline(name, {"budget.retention_ratio": 0.25}).run(tokens, trace=True)
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )


def test_salient_tokens_stay_as_they_are_and_nothing_is_lost_or_doubled():
    """The sane form is a partition: every token that is no salient one is in one anchor."""
    one_segment = {"segments.segmenter.min_segments": 1, "segments.segmenter.tau": -1.0}
    tokens = tower(8, "none", "fastvid", side=6)
    best = tokens.cues["attention@features"].argsort(dim=-1, descending=True, stable=True)[:, :6]
    reduced = load_pipeline("fastvid", {"budget.retention_ratio": 0.25, **one_segment}).run(
        tokens, trace=True
    )
    places = reduced.frame_index * 36 + reduced.token_index
    used = (reduced.trace.to_dense() > 0).sum(0)
    assert used.tolist() == [1] * (8 * 36)
    for frame, index in enumerate(best):
        rows = [(places == frame * 36 + i).nonzero().item() for i in index.tolist()]
        torch.testing.assert_close(reduced.features[rows], tokens.features[frame, index])


def test_the_release_merges_a_token_once_for_every_anchor_frame():
    one_segment = {"segments.segmenter.min_segments": 1, "segments.segmenter.tau": -1.0}
    tokens = tower(8, "none", "fastvid-released", side=6)
    reduced = load_pipeline(
        "fastvid-released", {"budget.retention_ratio": 0.25, **one_segment}
    ).run(tokens, trace=True)
    used = (reduced.trace.to_dense() > 0).sum(0).view(8, 36)
    assert sorted(used.unique().tolist()) == [1, 2]
    assert (used == 1).sum(-1).tolist() == [6] * 8  # the salient ones


def test_the_release_for_onevision_keeps_less_than_asked_for():
    realised = load_pipeline("fastvid-released").run(tower(32, name="fastvid-released")).realised
    assert realised.retention_ratio <= 608 / 6272  # 9.69 %


def test_the_release_for_qwen_keeps_less_than_asked_for():
    tokens = video_tokens(15, (10, 10), needs={"attention@features"}, dim=8, similar=0.97)
    asked = {
        "budget.retention_ratio": 0.27,
        "segments.segmenter": {"name": "fixed-length", "segment_frames": 5},
    }
    kept = load_pipeline("fastvid-released-qwen", asked).run(tokens).realised
    assert kept.tokens_per_frame == (0, 0, 0, 0, 100) * 3  # a frame cannot hold more
    whole = load_pipeline("fastvid-qwen", asked).run(tokens).realised
    assert whole.retention_ratio == pytest.approx(0.27)


@pytest.mark.parametrize("name", RELEASED)
def test_short_videos_fail_as_released_only(name):
    short = tower(4, "none", name, side=6)
    with pytest.raises(InputError, match="8 segments asked for, the video has 4 frames"):
        load_pipeline(name, {"budget.retention_ratio": 0.25}).run(short)
    sane = load_pipeline("fastvid-pooler", {"budget.retention_ratio": 0.25})
    assert sane.run(tower(4, "none", "fastvid-pooler", side=6)).realised.n_tokens == 36


def test_one_frame_is_enough():
    for name in SANE:
        tokens = tower(1, "none", name, side=6)
        reduced = load_pipeline(name, {"budget.retention_ratio": 0.1}).run(tokens)
        assert reduced.realised.n_tokens == 4
