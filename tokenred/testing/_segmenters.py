"""What every temporal segmenter has to satisfy."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from tokenred.interfaces import TemporalSegmenter
from tokenred.testing._run import Bodies, expect, for_all
from tokenred.testing.strategies import descriptors, frame_tokens
from tokenred.types import Segments

MAX_FRAMES = 40


def partitions_every_length(segmenter: TemporalSegmenter) -> None:
    """Videos of 1 to 40 frames are cut into runs that cover every frame once."""
    generator = torch.Generator().manual_seed(0)
    for frames in range(1, MAX_FRAMES + 1):
        shape = (frames, 6, 5) if _reads(segmenter) == "tokens" else (frames, 6)
        _expect_partition(segmenter.segment(torch.randn(shape, generator=generator)), frames)


def partitions_every_content(segmenter: TemporalSegmenter) -> None:
    """Noise, still videos and scenes with cuts are partitioned, with and without frame times."""

    def body(video: Tensor) -> None:
        frames = len(video)
        plain = segmenter.segment(video)
        _expect_partition(plain, frames)
        times = torch.arange(frames, dtype=torch.float32)
        _expect_partition(segmenter.segment(video, frame_times=times), frames)

    for_all(_videos(segmenter), body)


def is_reproducible(segmenter: TemporalSegmenter) -> None:
    """The same descriptors give the same boundaries and are left alone."""

    def body(video: Tensor) -> None:
        before = video.clone()
        first = segmenter.segment(video)
        expect(torch.equal(before, video), "the descriptors were changed")
        expect(first == segmenter.segment(video), "two runs differ")

    for_all(_videos(segmenter), body)


def half_precision_gives_a_partition(segmenter: TemporalSegmenter) -> None:
    """Half-precision descriptors are accepted."""

    def body(video: Tensor) -> None:
        _expect_partition(segmenter.segment(video.bfloat16()), len(video))

    for_all(_videos(segmenter), body)


def static_ignores_content(segmenter: TemporalSegmenter) -> None:
    """``static = True`` promises boundaries that follow from the number of frames alone."""

    def body(video: Tensor) -> None:
        if segmenter.static:
            other = segmenter.segment(torch.zeros_like(video))
            expect(segmenter.segment(video) == other, "the content moves the boundaries")

    for_all(_videos(segmenter), body)


def _expect_partition(segments: Segments, frames: int) -> None:
    expect(isinstance(segments, Segments), f"a {type(segments).__name__} instead of Segments")
    found = [frame for segment in segments for frame in segment]
    expect(found == list(range(frames)), f"{frames} frames are cut at {segments.boundaries}")


def _reads(segmenter: TemporalSegmenter) -> str:
    return segmenter.reads


def _videos(segmenter: TemporalSegmenter) -> st.SearchStrategy[Tensor]:
    drawn = frame_tokens if _reads(segmenter) == "tokens" else descriptors
    return st.integers(1, MAX_FRAMES).flatmap(drawn)


_BODIES = (
    partitions_every_length,
    partitions_every_content,
    is_reproducible,
    half_precision_gives_a_partition,
    static_ignores_content,
)


def contract(segmenter: TemporalSegmenter) -> Bodies:
    """Return what holds for it."""
    return _BODIES
