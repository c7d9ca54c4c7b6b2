"""The segment stage: inside each run of frames, merge later frames into the first one's tokens."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from tokenred.errors import ConfigError
from tokenred.interfaces import TemporalSegmenter
from tokenred.kernels.merge import gather_tokens, padded_index
from tokenred.pipeline.budget import BudgetConfig, shares, trim
from tokenred.pipeline.flow import Flow, TokenTable
from tokenred.pipeline.merges import Problem, Solved
from tokenred.pipeline.merging import couple
from tokenred.pipeline.stage import Stage
from tokenred.slots import Slot, build
from tokenred.stages.coupling import KeepRuleStage, KeepRuleStageConfig
from tokenred.stages.cut import DESCRIPTOR_TEXT, Descriptor, cut, descriptor_needs
from tokenred.types import Coupling, MergeWeights, Segments


class SegmentStageConfig(KeepRuleStageConfig):
    """Settings of the segment stage."""

    segmenter: Slot[TemporalSegmenter] = Field(
        description="which runs of frames are treated together"
    )
    descriptor: Descriptor = Field("mean-feature", description=DESCRIPTOR_TEXT)


class SegmentStage(KeepRuleStage):
    """Cut the video, and merge later frames of a segment into the tokens of the first; comes last.

    All segments are merged side by side, frame after frame, where no problem depends on another;
    shorter ones are padded. Under an exact budget every later frame gets its quota of kept tokens,
    in proportion to the tokens it has; if the anchors alone exceed the budget, the weakest are
    trimmed.
    """

    config: SegmentStageConfig

    def __init__(self, config: SegmentStageConfig) -> None:
        super().__init__(config)
        self.segmenter = build(TemporalSegmenter, config.segmenter)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the descriptor and the cost terms ask for."""
        return descriptor_needs(self.segmenter, self.config.descriptor) | super().needs

    def check(self, before: Sequence[Stage], after: Sequence[Stage], budget: BudgetConfig) -> None:
        """It comes last, and counts only what an exact budget leaves."""
        self._check_only(before)
        if after:
            raise ConfigError("the segment stage comes last")
        if self.decision.exact and budget.mode != "exact":
            raise ConfigError(
                f"keep decision '{self.config.keep.decide.name}' needs budget.mode: exact",
                ["keep", "decide"],
            )

    def run(self, flow: Flow) -> None:
        """Merge across frames, segment by segment."""
        segments = cut(flow, self.segmenter, self.config.descriptor)
        flow.update(segments=segments)
        flow.notes.n_segments = len(segments)
        self._merge_segments(flow, segments, self._quotas(flow, segments))

    def _merge_segments(self, flow: Flow, segments: Segments, quotas: Sequence[int | None]) -> None:
        sizes = list(zip(flow.tokens.keep.sum(-1).tolist(), quotas))
        keep = flow.tokens.keep.clone()
        for chunk in self._chunks(flow, keep, segments, sizes):
            self._merge(flow, keep, chunk, sizes)
        flow.update(keep=keep)

    def _chunks(
        self,
        flow: Flow,
        keep: Tensor,
        segments: Segments,
        sizes: list[tuple[int, int | None]],
    ) -> list[list[range]]:
        """Return the segments that have something to merge, in lists that are merged at once.

        Without anchors nothing is merged, and the first tokens of a frame fill its quota.
        """
        some = []
        for frames in segments:
            if sizes[frames[0]][0]:
                some.append(frames)
                continue
            for t in frames[1:]:
                if sizes[t][1] is not None:
                    keep[t] &= keep[t].long().cumsum(-1) <= sizes[t][1]
        if not self.transport.batches:
            return [[frames] for frames in some]
        some.sort(key=len, reverse=True)
        most = max(n for n, _ in sizes)
        values = most * max(most, flow.unflushed.features.shape[-1])
        return [some[part] for part in flow.chunks(len(some), values)]

    def _copies(self, frames: range) -> int:
        """Return how often the first frame of a segment goes to the LLM."""
        return 1

    def _quotas(self, flow: Flow, segments: Segments) -> list[int | None]:
        """Return how many sources each frame keeps; None where the decision needs no quota."""
        if not (flow.exact and self.decision.exact):
            return [None] * flow.frames
        counts = flow.tokens.keep.sum(-1).tolist()
        first = [frames[0] for frames in segments]
        rest = [t for t in range(flow.frames) if t not in set(first)]
        copies = [self._copies(frames) for frames in segments]
        used = sum(counts[t] * n for t, n in zip(first, copies))
        if used > flow.target:
            used = self._trim(flow, first, copies)
        left = flow.target - used
        available = sum(counts[t] for t in rest)
        if left > available:
            raise flow.unreachable("most", used + available)
        parts = dict(zip(rest, shares(left, [counts[t] for t in rest])))
        return [parts.get(t) for t in range(flow.frames)]

    def _trim(self, flow: Flow, first: list[int], copies: list[int]) -> int:
        """Drop the most weakly kept anchors until they fit the budget; return what they use."""
        keep = flow.tokens.keep
        counts = [int(keep[t].sum()) for t in first]
        if sum(copies) > flow.target:
            raise flow.unreachable("least", sum(copies))
        counts = trim(counts, copies, flow.target)
        value = keep.float() if flow.keep_value is None else flow.keep_value
        value = value.masked_fill(~keep, -1.0)
        trimmed = keep.clone()
        for frame, count in zip(first, counts):
            best = value[frame].argsort(descending=True, stable=True)[:count]
            trimmed[frame] = torch.zeros_like(keep[frame]).scatter(-1, best, True)
        flow.update(keep=trimmed)
        flow.remark("anchors were trimmed to the budget")
        return sum(count * n for count, n in zip(counts, copies))

    def _merge(
        self,
        flow: Flow,
        keep: Tensor,
        segments: list[range],
        sizes: list[tuple[int, int | None]],
    ) -> None:
        """Merge later frames into the first ones, and narrow ``keep`` (in place) to what stays."""
        rank = flow.unflushed.keep.long().cumsum(-1) - 1
        table = TokenTable(flow, self.transport.needs, rank)
        anchors = _places(keep, [frames[0] for frames in segments])
        for gap in range(1, len(segments[0])):
            frames = [each[gap] for each in segments if gap < len(each)]
            if any(sizes[t][0] for t in frames):
                place, real = (side[: len(frames)] for side in anchors)
                problem = Problem(place, real, *_places(keep, frames))
                self._merge_frames(flow, keep, table, problem, [sizes[t] for t in frames])

    def _merge_frames(
        self,
        flow: Flow,
        keep: Tensor,
        table: TokenTable,
        problem: Problem,
        sizes: list[tuple[int, int | None]],
    ) -> None:
        """Merge one frame of each of some segments into the anchors of these."""
        coupling = couple(flow, table, problem, self.transport)
        sources, real = problem.sources, problem.source_real
        stays = self._stays(coupling, sizes)
        # Padding repeats the first source of its row, and says the same of it.
        keep.view(-1).index_put_((sources,), stays.where(real, stays[:, :1]))
        gone = real & ~stays
        weights = self._weights(coupling, gone)
        if weights is None:
            return
        hit = gone.any(-1)[:, None]  # anchors that nothing goes to stay as they are
        index, real = padded_index(gone)  # the others have weight zero, and are not multiplied
        sent = gather_tokens(weights.source, index).where(real[..., None], 0.0)
        weights = MergeWeights(weights.anchor.where(hit, 1.0), sent)
        problem = replace(problem, sources=sources.gather(1, index), source_real=real)
        flow.merge([Solved(problem, weights)], problem.anchors.numel())

    def _stays(self, coupling: Coupling, sizes: list[tuple[int, int | None]]) -> Tensor:
        """Decide over the real sources of every problem, given their number and the quota."""
        score = self.score.score(coupling).detach()
        stays = torch.zeros_like(score, dtype=torch.bool)
        for n_sources, quota in dict.fromkeys(sizes):
            rows = [row for row, size in enumerate(sizes) if size == (n_sources, quota)]
            if n_sources == 0:
                continue
            stays[rows, :n_sources] = self.decision.decide(
                score[rows, :n_sources], keep=self.score.keep, n_keep=quota
            )
        return stays

    def _weights(self, coupling: Coupling, gone: Tensor) -> MergeWeights | None:
        """Return the weights that merge the sources in ``gone``; None without a merge."""
        if not self.aggregator.merges:
            return None
        rest = replace(
            coupling,
            plan=coupling.plan * gone[..., None],
            source_mass=coupling.source_mass * gone,
        )
        weights: MergeWeights = self.aggregator.weights(rest)
        return weights


def _places(keep: Tensor, frames: list[int]) -> tuple[Tensor, Tensor]:
    """Return the flat places of the tokens of some frames, padded, and which are real."""
    now = torch.tensor(frames, device=keep.device)
    index, real = padded_index(keep[now])
    return index + now[:, None] * keep.shape[1], real
