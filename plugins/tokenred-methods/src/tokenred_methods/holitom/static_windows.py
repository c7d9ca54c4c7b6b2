"""Windows of frames, chosen so that merging over time saves as many tokens as possible."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig
from tokenred.interfaces import TemporalSegmenter
from tokenred.types import Segments
from tokenred_methods.holitom.similarity import consecutive_similarity


class StaticWindowsConfig(StrategyConfig):
    """Settings of the static-windows segmenter."""

    tau: float = Field(
        0.8, ge=-1, le=1, description="a place repeats in the next frame if its cosine is above"
    )
    max_window_frames: int = Field(1024, ge=1, le=2**20, description="frames of a window at most")


class StaticWindowsSegmenter(TemporalSegmenter):
    """Cut where the most tokens can be merged over time.

    A window of w frames in which s places repeat from every frame to the next saves ``s * (w - 1)``
    tokens, as each such place needs one token instead of w. A dynamic programme finds the windows
    that save most in total. Of equally good answers a frame takes the shortest window that ends
    with it.

    Shapes
    ------
    descriptors : (frames, tokens, dim), the tokens themselves, any scale

    Source
    ------
    HoliTom, arXiv 2505.21334; cokeshao/HoliTom@e9b2972 ``select_static_windows``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: nothing in the result; run lengths make it quadratic in the frames, not cubic.
    """

    config: StaticWindowsConfig
    reads = "tokens"

    def segment(
        self,
        descriptors: Float[Tensor, "frames tokens dim"],
        *,
        frame_times: Tensor | None = None,
    ) -> Segments:
        """Return the windows as segments."""
        similarity = consecutive_similarity(descriptors)
        return static_windows(similarity, self.config.tau, self.config.max_window_frames)[0]


def static_windows(
    similarity: Float[Tensor, "gaps tokens"], tau: float, max_window_frames: int
) -> tuple[Segments, int]:
    """Return the windows that save most tokens, and how many they save."""
    repeats = (similarity > tau).cpu()
    frames = len(repeats) + 1
    run = torch.zeros(repeats.shape[1], dtype=torch.long)  # repeats in a row up to this frame
    saved, starts = [0], []  # saved[t]: by the windows of the first t frames
    for last in range(frames):
        best, start = saved[last], last
        if last:
            run = (run + 1) * repeats[last - 1]
        places = torch.bincount(run).flip(0).cumsum(0).flip(0).tolist()  # by length of the run
        for gaps in range(1, min(len(places), max_window_frames)):
            total = saved[last - gaps] + places[gaps] * gaps
            if total > best:
                best, start = total, last - gaps
        saved.append(best)
        starts.append(start)
    cuts = [frames]
    while cuts[-1]:
        cuts.append(starts[cuts[-1] - 1])
    return Segments(tuple(reversed(cuts))), saved[-1]
