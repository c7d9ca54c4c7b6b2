"""Anchor frames for context tokens, among the frames that hold salient ones."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.errors import InputError
from tokenred.interfaces import BudgetAllocator
from tokenred_methods.fastvid.whole import context_counts, floor, segments_of


class FastvidContextConfig(StrategyConfig):
    """Settings of the fastvid-context allocator."""

    every: int = Field(
        4, ge=1, le=2**20, description="frames from one anchor frame to the next (p)"
    )
    released: Literal["onevision", "llava-video", "qwen2.5-vl"] | None = Field(
        None, description="round, cap and fail as the release for that model; null: none of it"
    )


class FastvidContextAllocator(BudgetAllocator):
    """Give the anchors of a segment to its every-th frames that hold tokens already, from the end.

    A frame holds tokens if an earlier stage took some of it; where none does, all frames count. A
    segment gets anchors in proportion to all its frames. ``released`` rounds as a release does:

    * ``onevision``: so many a segment, divided by its anchor frames and rounded down; no context
      token at all, and more of them than a frame has, are errors.
    * ``llava-video``: rounded down once a segment; later anchor frames get what does not divide.
    * ``qwen2.5-vl``: the same among frames that hold tokens, one a segment at least, no more than
      half of a frame.

    Shapes
    ------
    returns : (frames,)

    Raises
    ------
    InputError
        With ``released``, where that release fails: see above.

    Source
    ------
    FastVID, arXiv 2503.11187; LunarShen/FastVID@a40a109 ``Qwen2Model.forward`` and
    ``Qwen2_5_VLForConditionalGeneration.forward``. Licence of source: MIT (written from our
    description).
    Differs: without ``released`` fractions are handed on, and the stage rounds them.
    """

    config: FastvidContextConfig
    rounding = "floor"

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many context tokens each frame gets; ``n_anchors`` is their average."""
        have = tokens.keep.sum(-1).tolist()
        counts = torch.zeros(len(have), dtype=torch.float64)
        for frames in segments_of(tokens):
            for frame, count in self._of_segment(tokens, frames, n_anchors, have).items():
                counts[frame] = count
        return counts

    def _of_segment(
        self, tokens: VisualTokens, frames: range, n_anchors: float, have: list[int]
    ) -> dict[int, int] | dict[int, float]:
        n, form, every = tokens.keep.shape[1], self.config.released, self.config.every
        hosts = [t for t in frames if have[t] < n] or list(frames)
        if form is None:
            anchors = hosts[::-every]
            return dict.fromkeys(anchors, n_anchors * len(frames) / len(anchors))
        if form == "qwen2.5-vl":
            total = max(1, floor(n_anchors * len(frames)))
            counts = context_counts(hosts, total, every)
            return {t: min(count, n // 2) for t, count in counts.items()}
        if form == "onevision":
            if floor(n_anchors) < 1:
                raise InputError("the budget leaves no context token, on which the release fails")
            anchors = frames[::-every]
            each = floor(n_anchors) * len(frames) // len(anchors)
            counts = dict.fromkeys(anchors, each)
        else:
            counts = context_counts(frames, floor(n_anchors * len(frames)), every)
        for t, count in counts.items():
            if count > have[t]:
                raise InputError(
                    f"{count} context tokens asked for, frame {t} has {have[t]} tokens left, on "
                    "which the release fails"
                )
        return counts
