"""The segment stage: inside each run of frames, merge later frames into the first one's tokens."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import (
    FrozenModel,
    KeepDecisionSlot,
    KeepScoreSlot,
    SegmenterSlot,
    build,
    nested,
)
from tokenred.kernels.merge import apply_merge
from tokenred.kernels.sparse import sparse_identity, sparse_map
from tokenred.pipeline.budget import shares, trim
from tokenred.pipeline.flow import Flow, Transport, Twins, token_group, uniform_mass
from tokenred.pipeline.stages.cut import DESCRIPTOR_TEXT, Descriptor, cut, descriptor_needs
from tokenred.pipeline.stages.frame import CouplingStageConfig
from tokenred.types import Coupling, MergeWeights, Segments, TokenGroup


class KeepRuleConfig(FrozenModel):
    """Which tokens of later frames stay tokens of their own."""

    score: KeepScoreSlot = Field(
        "max-probability", validate_default=True, description="how well the anchors stand for it"
    )
    decide: KeepDecisionSlot = Field(
        "count", validate_default=True, description="how many, or beyond which score"
    )


class SegmentStageConfig(CouplingStageConfig):
    """Settings of the segment stage."""

    kind: Literal["segment"] = "segment"
    segmenter: SegmenterSlot = Field(description="which runs of frames are treated together")
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


@dataclass
class _Anchors:
    """The anchors of one segment while later frames are merged into them."""

    index: Tensor  # (anchors,) on the grid of the first frame
    features: Tensor
    mass: Tensor
    map: Tensor | None  # (anchors, frames of the segment * tokens)


class SegmentStage:
    """Runs one segment stage.

    Under an exact budget every later frame gets its quota of kept tokens, in proportion to the
    tokens it has; if the anchors alone exceed the budget, the weakest are trimmed.
    """

    def __init__(self, config: SegmentStageConfig) -> None:
        self.config = config
        self.segmenter = build("segmenter", config.segmenter)
        self.transport = Transport(config.cost, config.combine, config.coupler)
        self.score = build("keep score", config.keep.score)
        self.decision = build("keep decision", config.keep.decide)
        self.aggregator = build("aggregator", config.aggregator)
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
        before = flow.tokens.features, flow.mass, flow.trace
        twin_places, order, maps = [], [], []
        for frames in segments:
            anchors, kept = self._merge_segment(flow, frames, quotas)
            place = anchors.index + frames[0] * flow.tokens.features.shape[1]
            self._write(flow, place, anchors)
            if anchors.map is not None:
                maps.append((place, frames, anchors.map))
            # One-frame segments have nothing merged into them, so there is nothing to repeat.
            twins = place if self.copies == 2 and len(frames) > 1 else place[:0]
            order.append((place, twins, kept))
            twin_places.append(twins)
        if flow.tracing:
            flow.extend_trace(_segment_map(flow.tokens.keep, maps))
        places = torch.cat(twin_places)
        if self.copies == 2:
            flow.twins = _twins(places, *before)
        if self.copies == 2 or self.config.order == "segment":
            flow.sequence = self._sequence(order, flow.tokens.keep.numel())

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

    def _merge_segment(
        self, flow: Flow, frames: range, quotas: list[int | None]
    ) -> tuple[_Anchors, list[Tensor]]:
        keep = flow.tokens.keep.clone()
        index = keep[frames[0]].nonzero()[:, 0]
        tokens = keep.shape[1]
        start = _Anchors(
            index, flow.tokens.features[frames[0], index], flow.mass[frames[0], index], None
        )
        if flow.tracing:
            start.map = torch.zeros(
                len(index), len(frames) * tokens, dtype=torch.float32, device=index.device
            )
            start.map[torch.arange(len(index)), index] = 1.0
        kept = []
        for gap, frame in enumerate(frames[1:], start=1):
            sources = keep[frame].nonzero()[:, 0]
            stays = self._merge_frame(flow, start, frame, gap, sources, quotas[frame])
            keep[frame] = False
            keep[frame, sources[stays]] = True
            kept.append(sources[stays] + frame * tokens)
        flow.update(keep=keep)
        return start, kept

    def _merge_frame(
        self,
        flow: Flow,
        anchors: _Anchors,
        frame: int,
        gap: int,
        sources: Tensor,
        quota: int | None,
    ) -> Tensor:
        """Merge one frame into the anchors in place; return which of its tokens stay."""
        features = flow.tokens.features[frame, sources]
        if len(sources) == 0 or len(anchors.index) == 0:  # without anchors nothing is merged
            order = torch.arange(len(sources), device=features.device)
            return order < (len(sources) if quota is None else quota)
        tokens, needs = flow.tokens.features.shape[1], self.transport.needs
        rank = flow.tokens.keep.long().cumsum(-1) - 1
        left = token_group(flow, sources + frame * tokens, needs, rank)
        right = token_group(flow, anchors.index + (frame - gap) * tokens, needs, rank)
        right = replace(right, features=anchors.features)
        coupling = self.transport(left, right, _uniform(left), _uniform(right))
        flow.note(coupling)
        stays, weights = self.split(coupling, quota)
        if weights is not None and not bool(stays.all()):
            self._absorb(flow, anchors, weights, frame, gap, sources)
        return stays

    def split(self, coupling: Coupling, n_keep: int | None) -> tuple[Tensor, MergeWeights | None]:
        """Return which sources stay tokens of their own, and the weights that merge the others."""
        score = self.score.score(coupling).detach()
        stays = self.decision.decide(score, keep=self.score.keep, n_keep=n_keep)
        if not self.aggregator.merges:
            return stays, None
        gone = ~stays
        rest = replace(
            coupling,
            plan=coupling.plan * gone[..., None],
            source_mass=coupling.source_mass * gone,
        )
        return stays, self.aggregator.weights(rest)

    def _absorb(
        self,
        flow: Flow,
        anchors: _Anchors,
        weights: MergeWeights,
        frame: int,
        gap: int,
        sources: Tensor,
    ) -> None:
        features = flow.tokens.features[frame, sources]
        anchors.features = apply_merge(anchors.features, features, weights)
        mass = apply_merge(anchors.mass[:, None], flow.mass[frame, sources][:, None], weights)[:, 0]
        anchors.mass = (mass / weights.anchor.to(mass.dtype)).detach()
        if anchors.map is not None:
            tokens = flow.tokens.features.shape[1]
            source = weights.source.detach().to(anchors.map.dtype)
            anchors.map = weights.anchor.detach().to(anchors.map.dtype)[:, None] * anchors.map
            anchors.map[:, gap * tokens + sources] += source.mT

    def _write(self, flow: Flow, place: Tensor, anchors: _Anchors) -> None:
        features = flow.tokens.features
        flat = features.flatten(0, 1).index_put((place,), anchors.features)
        flow.update(features=flat.view_as(features))
        flow.mass = flow.mass.flatten().index_put((place,), anchors.mass).view_as(flow.mass)

    def _sequence(self, order: list, tokens: int) -> Tensor:  # type: ignore[type-arg]
        """Return flat places in output order; places from ``tokens`` on are twins (unmerged)."""
        out, twin = [], tokens
        for place, twins, kept in order:
            originals = torch.arange(twin, twin + len(twins), device=place.device)
            twin += len(twins)
            if self.config.order == "segment":
                out += [originals, *kept, place] if len(twins) else [place, *kept]
            elif len(twins):
                out += [torch.stack([originals, place], dim=1).flatten(), *kept]
            else:
                out += [place, *kept]
        return torch.cat(out)


def _uniform(group: TokenGroup) -> Tensor:
    return uniform_mass(
        torch.ones(group.features.shape[:-1], dtype=torch.bool, device=group.features.device)
    )


def _twins(place: Tensor, features: Tensor, mass: Tensor, trace: Tensor | None) -> Twins:
    rows = None if trace is None else torch.index_select(trace, 0, place)
    return Twins(place, features.flatten(0, 1)[place], mass.flatten()[place], rows)


def _segment_map(keep: Tensor, maps: list) -> Tensor:  # type: ignore[type-arg]
    """Return the sparse map of all segments over flat tokens; untouched ones map to themselves."""
    tokens, size = keep.shape[1], keep.numel()
    merged = torch.zeros(size, dtype=torch.bool, device=keep.device)
    index, values = [], []
    for place, frames, weights in maps:
        merged[place] = True
        row, column = weights.nonzero(as_tuple=True)
        index.append(torch.stack([place[row], column + frames[0] * tokens]))
        values.append(weights[row, column])
    rest = (~merged).nonzero()[:, 0]
    index.append(torch.stack([rest, rest]))
    values.append(torch.ones(len(rest), device=keep.device))
    return sparse_map(torch.cat(index, 1), torch.cat(values), (size, size))
