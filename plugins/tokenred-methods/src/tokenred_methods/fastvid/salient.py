"""Salient tokens for the frames of a segment that differ from the next one."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import BudgetAllocator
from tokenred.strategies.segmenters import neighbour_similarity
from tokenred_methods.fastvid.whole import ceil, context_counts, evenly, floor, segments_of


class FastvidSalientConfig(StrategyConfig):
    """Settings of the fastvid-salient allocator."""

    ignore: float | None = Field(
        None,
        ge=-1,
        le=2,
        description="a frame whose similarity with the next of its segment reaches this gets "
        "nothing; null: every frame gets its share",
    )
    descriptor: Literal["mean-feature", "pooler"] = Field(
        "mean-feature",
        description="what frames are compared by: their mean token, or the output of the vision "
        "tower's pooling head",
    )
    released: Literal["llava-video", "qwen2.5-vl"] | None = Field(
        None, description="round and cap as the release for that model; null: none of it"
    )
    context: float = Field(
        0.4, gt=0, lt=1, description="share of the context tokens (d), which released Qwen reads"
    )
    every: int = Field(
        4, ge=1, le=2**20, description="distance of anchor frames (p), which released Qwen reads"
    )


class FastvidSalientAllocator(BudgetAllocator):
    """Divide the anchors of a segment evenly among its frames, near-identical ones counted once.

    Of a run of frames each of which is as good as the next, only the last gets any. Frames that get
    none can still be merged into others. ``released`` rounds as one of the releases:

    * ``llava-video``: rounded up once a segment; earlier frames get what does not divide.
    * ``qwen2.5-vl``: what the context tokens leave of a segment, which are at least one; then no
      more than the context tokens of a frame leave of its tokens.

    Shapes
    ------
    features : (frames, tokens, dim), or cue ``pooler`` : (frames, width)      returns : (frames,)

    Source
    ------
    FastVID, arXiv 2503.11187; LunarShen/FastVID@a40a109 ``Qwen2Model.forward`` and
    ``Qwen2_5_VLForConditionalGeneration.forward``. Licence of source: MIT (written from our
    description).
    Differs: without ``released`` fractions are handed on, and the stage rounds them.
    """

    config: FastvidSalientConfig

    @property
    def needs(self) -> frozenset[str]:
        """The cue that describes frames, if it is one."""
        described = self.config.ignore is not None and self.config.descriptor == "pooler"
        return frozenset({"pooler"} if described else ())

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Tensor:
        """Return how many salient tokens each frame gets; ``n_anchors`` is their average."""
        counts = torch.zeros(len(tokens.features), dtype=torch.float64)
        same = self._same_as_next(tokens)
        for frames in segments_of(tokens):
            hosts = [t for t in frames if t == frames[-1] or not same[t]]
            for frame, count in self._of_segment(tokens, frames, hosts, n_anchors).items():
                counts[frame] = count
        return counts

    def _same_as_next(self, tokens: VisualTokens) -> list[bool]:
        if self.config.ignore is None:
            return [False] * len(tokens.features)
        if self.config.descriptor == "mean-feature":
            keep = tokens.keep[..., None]
            described = (tokens.features.float() * keep).sum(1) / keep.sum(1).clamp_min(1)
        else:
            described = tokens.cue("pooler")
        same = neighbour_similarity(described) >= self.config.ignore
        return [*same.tolist(), False]

    def _of_segment(
        self, tokens: VisualTokens, frames: range, hosts: list[int], n_anchors: float
    ) -> dict[int, int] | dict[int, float]:
        n, form = tokens.keep.shape[1], self.config.released
        if form is None:
            return dict.fromkeys(hosts, n_anchors * len(frames) / len(hosts))
        total = ceil(n_anchors * len(frames))
        if form == "llava-video":
            return dict(zip(hosts, evenly(total, len(hosts))))
        quota = floor(n_anchors / (1 - self.config.context) * len(frames))
        n_context = max(1, floor(quota * self.config.context))
        context = context_counts(hosts, n_context, self.config.every)
        counts = zip(hosts, evenly(quota - n_context, len(hosts)))
        return {t: min(count, n - min(context.get(t, 0), n // 2)) for t, count in counts}
