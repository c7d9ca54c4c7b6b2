"""The reference stage: what a frame repeats of an earlier one is dropped or merged back into it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import nested
from tokenred.errors import InputError
from tokenred.interfaces import FrameReference
from tokenred.kernels.merge import padded_index
from tokenred.pipeline.budget import rounded, shares
from tokenred.pipeline.flow import Flow, TokenTable
from tokenred.pipeline.merges import Problem
from tokenred.pipeline.merging import couple, weigh
from tokenred.slots import Slot, build
from tokenred.stages.coupling import KeepRuleConfig, KeepRuleStage, KeepRuleStageConfig
from tokenred.types import Coupling


class ReferenceStageConfig(KeepRuleStageConfig):
    """Settings of the reference stage."""

    reference: Slot[FrameReference] = Field(
        "previous", validate_default=True, description="which frame each frame is compared with"
    )
    keep: Annotated[KeepRuleConfig, nested(KeepRuleConfig)] = Field(
        default_factory=lambda: KeepRuleConfig(score="expected-cost"),  # type: ignore[arg-type]
        description="which sources stay tokens of their own",
    )
    scope: Literal["frame", "video"] = Field(
        "frame", description="whether the decision compares the tokens of a frame or of the video"
    )
    order: Literal["raster", "score"] = Field(
        "raster", description="order inside a frame that was compared; 'score': most distinct first"
    )


@dataclass(frozen=True)
class _Compared:
    """One frame beside the one it is compared with."""

    frame: int
    problem: Problem
    coupling: Coupling
    score: Tensor  # (sources,)


class ReferenceStage(KeepRuleStage):
    """Compare each frame with an earlier one of its segment; drop or merge what it repeats.

    Every frame of a segment is coupled to all tokens of its reference, as both were before this
    stage. What the keep rule does not keep is dropped; if the aggregator merges, it goes into the
    reference's tokens, last frames first, so that it reaches a token that stays. Frames that are
    their own reference stay whole; under an exact budget the others share what these leave.
    """

    config: ReferenceStageConfig

    def __init__(self, config: ReferenceStageConfig) -> None:
        super().__init__(config)
        self.reference = build(FrameReference, config.reference)

    def run(self, flow: Flow) -> None:
        """Compare, decide, merge."""
        references = self._references(flow)
        lost = [t for t, earlier in enumerate(references) if earlier is None]
        keep = flow.tokens.keep.clone()
        keep[lost] = False
        flow.update(keep=keep)
        pairs = [(t, earlier) for t, earlier in enumerate(references) if earlier is not None]
        compared = self._compare(flow, pairs)
        stays = self._decide(flow, compared)
        flow.notes.n_segments = len(flow.segments)
        if self.aggregator.merges:
            for each, kept in reversed(list(zip(compared, stays))):
                self._merge_back(flow, each, kept)
        keep = flow.tokens.keep.clone()
        for each, kept in zip(compared, stays):
            keep.view(-1)[each.problem.sources[0][~kept]] = False
        if self.config.order == "score":
            self._sort(flow, keep, compared)
        flow.update(keep=keep)

    def _references(self, flow: Flow) -> list[int | None]:
        """Return each frame's reference in the video, and check what the strategy says."""
        found: list[int | None] = []
        for frames in flow.segments:
            inside: Sequence[int | None] = self.reference.references(len(frames))
            if len(inside) != len(frames) or any(
                earlier is not None and not 0 <= earlier <= t for t, earlier in enumerate(inside)
            ):
                raise InputError(
                    f"frame reference '{self.config.reference.name}' gave {list(inside)} for "
                    f"{len(frames)} frames; it names none or an earlier one for each"
                )
            found += [None if earlier is None else frames[earlier] for earlier in inside]
        return found

    def _compare(self, flow: Flow, pairs: list[tuple[int, int]]) -> list[_Compared]:
        """Couple each of some frames to another; several at once where that cannot show.

        Frames that are their own reference, or have nothing to be compared with, stay whole.
        """
        open_ = flow.open()
        counts = open_.sum(-1).tolist()
        pairs = [(t, to) for t, to in pairs if t != to and counts[t] and counts[to]]
        table, values = TokenTable(flow, self.transport.needs), flow.tokens.features[:1].numel()
        parts = flow.chunks(len(pairs), values)
        if not self.transport.batches:
            parts = [slice(i, i + 1) for i in range(len(pairs))]
        return [
            each for part in parts for each in self._couple(flow, table, open_, counts, pairs[part])
        ]

    def _couple(
        self,
        flow: Flow,
        table: TokenTable,
        open_: Tensor,
        counts: list[int],
        pairs: list[tuple[int, int]],
    ) -> Iterator[_Compared]:
        frames, earlier = torch.tensor(pairs, device=open_.device).T
        left, right = padded_index(open_[frames]), padded_index(open_[earlier])
        n = open_.shape[1]
        anchors, sources = right[0] + earlier[:, None] * n, left[0] + frames[:, None] * n
        both = Problem(anchors, right[1], sources, left[1])
        coupling = couple(flow, table, both, self.transport)
        score = self.score.score(coupling).detach()
        for i, (t, reference) in enumerate(pairs):
            item, some, others = slice(i, i + 1), slice(counts[t]), slice(counts[reference])
            problem = Problem(
                anchors[item, others],
                right[1][item, others],
                sources[item, some],
                left[1][item, some],
            )
            part = _part(coupling, item, some, others)
            yield _Compared(t, problem, part, score[i, some])

    def _decide(self, flow: Flow, compared: list[_Compared]) -> list[Tensor]:
        """Return for every compared frame which of its tokens stay."""
        sizes = [len(each.score) for each in compared]
        quotas = self._quotas(flow, sizes)
        if not compared:
            return []
        if self.config.scope == "video":
            total = None if quotas is None else sum(quotas)
            score = torch.cat([each.score for each in compared])
            return list(self._kept(score, total).split(sizes))
        return [
            self._kept(each.score, None if quotas is None else quotas[i])
            for i, each in enumerate(compared)
        ]

    def _kept(self, score: Tensor, quota: int | None) -> Tensor:
        decided: Tensor = self.decision.decide(score, keep=self.score.keep, n_keep=quota)
        return decided

    def _quotas(self, flow: Flow, sizes: list[int]) -> list[int] | None:
        """Share what whole frames leave of the budget; None where nothing is counted."""
        if not self.decision.exact:
            return None
        whole = int(flow.tokens.keep.sum()) - sum(sizes)
        if not flow.exact:
            wanted = flow.budget.retention_ratio * flow.frames * flow.vanilla_cells
            return shares(max(0, rounded(wanted, flow.budget.rounding) - whole), sizes)
        if whole > flow.target:
            raise flow.unreachable("least", whole)
        if flow.target - whole > sum(sizes):
            raise flow.unreachable("most", whole + sum(sizes))
        return shares(flow.target - whole, sizes)

    def _merge_back(self, flow: Flow, each: _Compared, stays: Tensor) -> None:
        gone = ~stays[None]
        if not bool(gone.any()):
            return
        coupling = replace(
            each.coupling,
            plan=each.coupling.plan * gone[..., None],
            source_mass=each.coupling.source_mass * gone,
        )
        merge = weigh(each.problem, coupling, self.aggregator, "uniform")
        flow.merge([merge], each.problem.anchors.numel())

    def _sort(self, flow: Flow, keep: Tensor, compared: list[_Compared]) -> None:
        rank = torch.zeros(keep.shape, dtype=torch.long, device=keep.device)
        pruned = torch.zeros_like(keep)
        for each in compared:
            order = each.score.argsort(descending=self.score.keep == "high", stable=True)
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
            rank.view(-1)[each.problem.sources[0]] = place
            pruned[each.frame] = keep[each.frame]
        flow.order_last(pruned, rank)


def _part(coupling: Coupling, item: slice, sources: slice, anchors: slice) -> Coupling:
    """Return some problems of a coupling, without their padding."""

    def cut(values: Tensor) -> Tensor:
        return values[item, sources, anchors]

    return replace(
        coupling,
        plan=cut(coupling.plan),
        cost=cut(coupling.cost),
        forbidden=None if coupling.forbidden is None else cut(coupling.forbidden),
        source_mass=coupling.source_mass[item, sources],
        anchor_mass=coupling.anchor_mass[item, anchors],
        residual=coupling.residual[item],
        converged=coupling.converged[item],
        terms={name: cut(term) for name, term in coupling.terms.items()},
    )
