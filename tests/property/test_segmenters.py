"""What temporal segmenters promise beyond a partition, against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from property.cases import make
from tokenred import InputError
from tokenred.testing.strategies import descriptors

FRAMES = st.integers(1, 64)
VIDEOS = FRAMES.flatmap(descriptors)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


@given(VIDEOS, st.integers(1, 12), st.sampled_from((-1.0, 0.0, 0.5, 0.9, 1.0)))
@settings(max_examples=examples(40))
def test_dynamic_cuts_the_lowest_and_all_below_tau(
    video: Tensor, min_segments: int, tau: float
) -> None:
    found = make("segmenter", "dynamic", min_segments=min_segments, tau=tau).segment(video)
    gaps = [cosine(video[t], video[t + 1]) for t in range(len(video) - 1)]
    order = sorted(range(len(gaps)), key=lambda t: gaps[t])
    lowest = set(order[: min_segments - 1])
    # What lies within rounding of tau may fall on either side of it.
    sure = {t for t in range(len(gaps)) if gaps[t] < tau - 1e-6} | lowest
    possible = {t for t in range(len(gaps)) if gaps[t] < tau + 1e-6} | lowest
    cuts = {b - 1 for b in found.boundaries[1:-1]}
    assert sure <= cuts <= possible
    assert len(found) >= min(min_segments, len(video))


@given(FRAMES, st.integers(1, 70))
@settings(max_examples=examples(40))
def test_fixed_segments_are_even(frames: int, n: int) -> None:
    video = torch.zeros(frames, 2)
    lengths = [
        len(segment) for segment in make("segmenter", "fixed-count", n_segments=n).segment(video)
    ]
    assert len(lengths) == min(n, frames)
    assert max(lengths) - min(lengths) <= 1
    lengths = [
        len(segment)
        for segment in make("segmenter", "fixed-length", segment_frames=n).segment(video)
    ]
    assert all(length == n for length in lengths[:-1])
    assert 1 <= lengths[-1] <= n


@given(VIDEOS, st.integers(1, 12), st.sampled_from(("ward", "average", "complete")))
@settings(max_examples=examples(25))
def test_clustering_gives_the_number_asked_for(video: Tensor, n: int, linkage: str) -> None:
    found = make("segmenter", "clustering", n_segments=n, linkage=linkage).segment(video)
    assert len(found) == min(n, len(video))
    assert [frame for run in found for frame in run] == list(range(len(video)))


@pytest.mark.parametrize("linkage", ["ward", "average", "complete"])
@pytest.mark.parametrize("name", ["clustering", "dynamic"])
def test_scene_cuts_are_found(name: str, linkage: str) -> None:
    cuts = (0, 5, 9, 20)
    scenes = torch.eye(3)[torch.tensor([0] * 5 + [1] * 4 + [2] * 11)]
    noise = 0.05 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    options = {"n_segments": 3, "linkage": linkage} if name == "clustering" else {"min_segments": 3}
    assert make("segmenter", name, **options).segment(scenes + noise).boundaries == cuts


@given(VIDEOS, st.floats(0.01, 100))
@settings(max_examples=examples(15))
def test_dynamic_ignores_the_scale(video: Tensor, scale: float) -> None:
    segmenter = make("segmenter", "dynamic", min_segments=4, tau=-1)
    gaps = torch.nn.functional.cosine_similarity(video[1:], video[:-1], dim=-1).sort().values
    if bool((gaps.diff() > 1e-5).all()):  # no ties that rounding could decide
        assert segmenter.segment(scale * video) == segmenter.segment(video)


def test_short_videos_are_clamped_or_refused() -> None:
    video = torch.randn(5, 3)
    assert make("segmenter", "dynamic", min_segments=8).segment(video).boundaries == tuple(range(6))
    with pytest.raises(InputError, match="8 segments asked for, the video has 5 frames"):
        make("segmenter", "dynamic", min_segments=8, short_video="error").segment(video)
    with pytest.raises(InputError, match=r"accepts \(32, 64\) frames, the video has 5"):
        make("segmenter", "fixed-count", only_frames=(32, 64)).segment(video)
    released = make("segmenter", "fixed-count", only_frames=(32, 64))
    assert released.segment(torch.zeros(32, 1)).boundaries == tuple(range(0, 33, 4))
