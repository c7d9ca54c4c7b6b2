"""The segment stage: inside each run of frames, merge later frames into the first one's tokens."""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import FrozenModel, nested
from tokenred.interfaces import Aggregator, KeepDecision, KeepScore, TemporalSegmenter
from tokenred.kernels.merge import gather_tokens, padded_index
from tokenred.kernels.sparse import sparse_identity
from tokenred.pipeline.budget import shares, trim
from tokenred.pipeline.flow import Flow, TokenTable, Transport, Twins
from tokenred.pipeline.merges import Problem, Solved
from tokenred.pipeline.merging import couple
from tokenred.pipeline.stages.cut import DESCRIPTOR_TEXT, Descriptor, cut, descriptor_needs
from tokenred.pipeline.stages.frame import CouplingStageConfig
from tokenred.slots import Slot, build
from tokenred.types import Coupling, MergeWeights, Segments


class KeepRuleConfig(FrozenModel):
    """Which tokens of later frames stay tokens of their own."""

    score: Slot[KeepScore] = Field(
        "max-probability", validate_default=True, description="how well the anchors stand for it"
    )
    decide: Slot[KeepDecision] = Field(
        "count", validate_default=True, description="how many, or beyond which score"
    )


class SegmentStageConfig(CouplingStageConfig):
    """Settings of the segment stage."""

    kind: Literal["segment"] = "segment"
    segmenter: Slot[TemporalSegmenter] = Field(
        description="which runs of frames are treated together"
    )
    descriptor: Descriptor = Field("mean-feature", description=DESCRIPTOR_TEXT)
    keep: Annotated[KeepRuleConfig, nested(KeepRuleConfig)] = Field(
        default_factory=lambda: KeepRuleConfig(),
        description="which sources stay tokens of their own",
    )
    emit: Literal["merged", "merged-and-original"] = Field(
        "merged", description="whether unmerged anchors are emitted as well, as released"
    )
    order: Literal["temporal", "segment"] = Field(
        "temporal",
        description="by frame, or anchors - kept - merged anchors a segment, as released",
    )


class SegmentStage:
    """Runs one segment stage.

    All segments are merged side by side, frame after frame, where no problem depends on another;
    shorter ones are padded. Under an exact budget every later frame gets its quota of kept tokens,
    in proportion to the tokens it has; if the anchors alone exceed the budget, the weakest are
    trimmed.
    """

    def __init__(self, config: SegmentStageConfig) -> None:
        self.config = config
        self.segmenter = build(TemporalSegmenter, config.segmenter)
        self.transport = Transport(config.cost, config.combine, config.coupler)
        self.score = build(KeepScore, config.keep.score)
        self.decision = build(KeepDecision, config.keep.decide)
        self.aggregator = build(Aggregator, config.aggregator)
        self.copies = 2 if config.emit == "merged-and-original" else 1

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the descriptor and the cost terms ask for."""
        return descriptor_needs(self.segmenter, self.config.descriptor) | self.transport.needs

    def run(self, flow: Flow) -> None:
        """Merge across frames, segment by segment."""
        segments = cut(flow, self.segmenter, self.config.segmenter.name, self.config.descriptor)
        flow.update(segments=segments)
        flow.notes.n_segments = len(segments)
        quotas = self._quotas(flow, segments)
        if flow.tracing and flow.trace is None:
            flow.trace = sparse_identity(flow.tokens.keep.numel(), flow.mass.device)
        twins = self._twin_frames(segments)
        if self.copies == 2:
            flow.twins = _twins(flow, twins)
        sizes = list(zip(flow.tokens.keep.sum(-1).tolist(), quotas))
        keep = flow.tokens.keep.clone()
        for chunk in self._chunks(flow, keep, segments, sizes):
            self._merge(flow, keep, chunk, sizes)
        flow.update(keep=keep)
        if self.copies == 2 or self.config.order == "segment":
            flow.sequence = self._sequence(keep, segments, twins)

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

    def _twin_frames(self, segments: Segments) -> list[int]:
        """Return the first frames that are emitted twice.

        One-frame segments have nothing merged into them, so there is nothing to repeat.
        """
        return [each[0] for each in segments if self.copies == 2 and len(each) > 1]

    def _quotas(self, flow: Flow, segments: Segments) -> list[int | None]:
        """Return how many sources each frame keeps; None where the decision needs no quota."""
        if not (flow.exact and self.decision.exact):
            return [None] * flow.frames
        counts = flow.tokens.keep.sum(-1).tolist()
        first = [frames[0] for frames in segments]
        rest = [t for t in range(flow.frames) if t not in set(first)]
        copies = [self.copies if len(frames) > 1 else 1 for frames in segments]
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

    def split(self, coupling: Coupling, n_keep: int | None) -> tuple[Tensor, MergeWeights | None]:
        """Return which sources stay tokens of their own, and the weights that merge the others."""
        score = self.score.score(coupling).detach()
        stays = self.decision.decide(score, keep=self.score.keep, n_keep=n_keep)
        return stays, self._weights(coupling, ~stays)

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

    def _sequence(self, keep: Tensor, segments: Segments, twins: list[int]) -> Tensor:
        """Return flat places in output order; places from ``keep`` on are twins (unmerged)."""
        alive = keep.flatten().nonzero()[:, 0].split(keep.sum(-1).tolist())
        out, twin = [], keep.numel()
        for frames in segments:
            place, kept = alive[frames[0]], [alive[t] for t in frames[1:]]
            if frames[0] not in twins:
                out += [place, *kept]
                continue
            originals = torch.arange(twin, twin + len(place), device=place.device)
            twin += len(place)
            if self.config.order == "segment":
                out += [originals, *kept, place]
            else:
                out += [torch.stack([originals, place], dim=1).flatten(), *kept]
        return torch.cat(out)


def _twins(flow: Flow, frames: list[int]) -> Twins:
    """Return the tokens of some frames as they are."""
    first = torch.zeros_like(flow.tokens.keep)
    first[frames] = flow.tokens.keep[frames]
    place = first.flatten().nonzero()[:, 0]
    rows = None if flow.trace is None else torch.index_select(flow.trace, 0, place)
    return Twins(place, flow.at(place), flow.mass.flatten()[place], rows)


def _places(keep: Tensor, frames: list[int]) -> tuple[Tensor, Tensor]:
    """Return the flat places of the tokens of some frames, padded, and which are real."""
    now = torch.tensor(frames, device=keep.device)
    index, real = padded_index(keep[now])
    return index + now[:, None] * keep.shape[1], real
