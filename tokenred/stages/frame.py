"""The frame stage: select anchors in each frame, couple other tokens to them, aggregate."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import TokenCue, is_of_frames
from tokenred.errors import ConfigError, InputError
from tokenred.interfaces import AnchorSelector, BudgetAllocator
from tokenred.kernels.merge import padded_index
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.flow import Flow, TokenTable
from tokenred.pipeline.merges import Merge, Problem
from tokenred.pipeline.merging import couple, in_turn, mass_needs, weigh
from tokenred.pipeline.quotas import QuotaConfig, anchor_counts
from tokenred.pipeline.stage import Decides, Stage
from tokenred.slots import Slot, build
from tokenred.stages.coupling import CouplingStage, CouplingStageConfig
from tokenred.types import VisualTokens


class FrameStageConfig(CouplingStageConfig, QuotaConfig):
    """Settings of the frame stage."""

    selector: Slot[AnchorSelector] = Field(description="which tokens of a frame stay")
    scope: Literal["frame", "segment"] = Field(
        "frame",
        description="whose tokens an anchor may take in: its frame's, or its segment's, all "
        "anchors of the segment competing",
    )
    sources: Literal["rest", "all"] = Field(
        "rest", description="'all': the other anchors are sources as well"
    )
    mass: TokenCue = Field(
        "uniform",
        description="marginals of the coupling: 'uniform', 'size' (tokens that each stands for), "
        "or the values of a per-token cue",
    )
    rounds: int = Field(
        1,
        ge=1,
        le=100,
        description="how many times anchors take the same sources in, each time from where they "
        "then stand",
    )
    rest: Literal["drop", "leave"] = Field(
        "drop", description="'leave': anchors are pinned, the others stay for later stages"
    )
    order: Literal["raster", "stage", "selection"] = Field(
        "raster",
        description="where anchors stand in their frame: in their places; behind those of earlier "
        "stages; behind them in the selector's order",
    )
    added: ClassVar[frozenset[str]] = QuotaConfig.added | {"rounds"}


class FrameStage(CouplingStage):
    """In each frame, select anchors, couple the other tokens to them, aggregate."""

    config: FrameStageConfig

    def __init__(self, config: FrameStageConfig) -> None:
        super().__init__(config)
        self.selector = build(AnchorSelector, config.selector)
        self.allocator = build(BudgetAllocator, config.allocator)
        if config.part != "all" and self.allocator.divides:
            raise ConfigError("a part is divided by what each frame has of it", ["allocator"])
        if config.budget_scope == "video":
            self._check_pool()

    def _check_pool(self) -> None:
        """One choice over the whole video takes the place of numbers for the frames."""
        allocator, selector = self.config.allocator.name, self.config.selector.name
        if self.allocator.divides:
            raise ConfigError(
                f"with budget_scope: video the selector divides the anchors, not '{allocator}'; "
                "use allocator: equal",
                ["allocator"],
            )
        if any(is_of_frames(name) for name in self.selector.needs):
            raise ConfigError(
                f"selector '{selector}' reads something of each frame, so it cannot choose over "
                "the whole video; use budget_scope: frame",
                ["budget_scope"],
            )

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the parts ask for."""
        needs = self.selector.needs | self.allocator.needs | mass_needs(self.config.mass)
        return needs | super().needs

    @property
    def decides(self) -> Decides:
        """It drops what are no anchors."""
        if self.config.rest == "leave":
            return "nothing"
        return "exact" if self.config.n_anchors == "budget" else "adaptive"

    @property
    def leaves_grid(self) -> bool:
        """Whether only anchors are left."""
        return self.config.rest == "drop"

    def check(self, before: Sequence[Stage], after: Sequence[Stage], budget: BudgetConfig) -> None:
        """Parts have to come from somewhere."""
        if self.config.part != "all" and not any(stage.splits for stage in before):
            raise ConfigError("parts come from a static stage before", ["part"])

    def run(self, flow: Flow) -> None:
        """Narrow the tokens to the anchors and merge the others into them."""
        self._step(flow, flow.open(self.config.part), self._counts(flow))
        if self.config.part != "all":
            flow.decided |= {self.config.part}

    def _counts(self, flow: Flow) -> list[int]:
        """Return the number of anchors of every frame, or that of the whole video."""
        return anchor_counts(flow, self.config, self.allocator)

    def _step(self, flow: Flow, tokens: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Select ``counts`` anchors a frame (or one count) among ``tokens``; merge, pin or drop the
        rest.

        Returns the anchors as a mask, and each one's place in the selector's order.
        """
        anchors, rank = self._select(flow, tokens, counts)
        rest = tokens & ~anchors
        sources = tokens if self.config.sources == "all" else rest
        if self.aggregator.merges and bool(sources.any()) and bool(anchors.any()):
            flow.merge(self._merges(flow, tokens, anchors, sources), int(anchors.sum()))
            if self.config.budget_scope == "video" or 0 in counts:
                self._note_lonely(flow, anchors, rest)
        if self.config.order != "raster":
            flow.order_last(anchors, rank if self.config.order == "selection" else None)
        flow.keep_value = anchors.float()
        if self.config.rest == "leave":
            flow.pin(anchors)
        else:
            flow.update(keep=flow.unflushed.keep & ~rest)
        return anchors, rank

    def _note_lonely(self, flow: Flow, anchors: Tensor, rest: Tensor) -> None:
        """Say how many tokens go unmerged since no anchor of their frame is there to take them."""
        lonely = int(rest[~anchors.any(-1)].sum())
        if lonely and self.config.scope == "frame" and self.config.rest == "drop":
            flow.remark(
                f"{lonely} tokens of frames without anchors were dropped, not merged; scope: "
                "segment lets anchors of other frames take them in"
            )

    def _asks(self, count: int) -> bool:
        """Return whether the selector is asked even if a frame keeps all of its ``count`` tokens.

        Its order may matter, or it may choose fewer.
        """
        return self.config.order == "selection" or self.selector.adaptive

    def _select(self, flow: Flow, tokens: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the anchors as a mask, and each one's place in the selector's order."""
        view = replace(flow.tokens, keep=tokens)
        if self.config.budget_scope == "frame":
            return self._select_in(view, counts, flow.generator)
        anchors, rank = self._select_in(_pool_of(view), counts, flow.generator)
        return anchors.view_as(tokens), rank.view_as(tokens)

    def _select_in(
        self, view: VisualTokens, counts: Sequence[int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Select so many anchors in each frame of a view."""
        tokens = view.keep
        anchors = torch.zeros_like(tokens)
        rank = torch.zeros(tokens.shape, dtype=torch.long, device=tokens.device)
        have = tokens.sum(-1).tolist()
        for count in sorted(set(counts) - {0}):
            frames = [t for t, n in enumerate(counts) if n == count]
            whole = [] if self._asks(count) else [t for t in frames if have[t] == count]
            if whole:
                anchors[whole] = tokens[whole]
                rank[whole] = torch.arange(tokens.shape[1], device=tokens.device)
                frames = [t for t in frames if t not in set(whole)]
            if not frames:
                continue
            chosen, order = self._chosen(view, frames, count, generator)
            if bool((chosen & ~tokens[frames]).any()) or (
                self.config.rest == "drop" and not bool(chosen.any(-1).all())
            ):
                where = self.config.budget_scope
                raise InputError(
                    f"selector '{self.config.selector.name}' chose a dropped token or none in a "
                    f"{where}"
                )
            anchors[frames], rank[frames] = chosen, order
        return anchors, rank

    def _chosen(
        self, view: VisualTokens, frames: list[int], count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Ask the selector about some frames; return mask and order of these."""
        apart = not self.selector.looks_across_frames
        some = apart and len(frames) < len(view.keep)
        asked = _frames_of(view, frames) if some else view
        answer = self.selector.select(asked, count, generator=generator).to(view.keep.device)
        if answer.dtype == torch.bool:
            mask, order = answer, torch.zeros(answer.shape, dtype=torch.long, device=answer.device)
        else:
            frame, place = (answer >= 0).nonzero(as_tuple=True)
            token = answer[frame, place]
            mask = torch.zeros_like(asked.keep)
            mask[frame, token] = True
            order = torch.zeros_like(asked.keep, dtype=torch.long)
            order[frame, token] = place
            if int(mask.sum()) < len(token):
                name = self.config.selector.name
                raise InputError(f"selector '{name}' chose a token of a frame twice")
        return (mask, order) if some else (mask[frames], order[frames])

    def _merges(
        self, flow: Flow, tokens: Tensor, anchors: Tensor, sources: Tensor
    ) -> Iterator[Merge]:
        table = TokenTable(flow, self.transport.needs, tokens.long().cumsum(-1) - 1)
        mass, apart = self.config.mass, self.config.sources == "all"
        for problem in self._problems(flow, anchors, sources):
            coupling = couple(flow, table, problem, self.transport, mass=mass, apart=apart)
            solved = weigh(problem, coupling, self.aggregator, mass)
            for _ in range(self.config.rounds - 1):
                moved = solved.weights
                coupling = couple(
                    flow, table, problem, self.transport, mass=mass, apart=apart, moved=moved
                )
                again = weigh(problem, coupling, self.aggregator, mass)
                solved = replace(again, weights=in_turn(moved, again.weights))
            yield solved

    def _problems(self, flow: Flow, anchors: Tensor, sources: Tensor) -> Iterator[Problem]:
        if self.config.scope == "frame":
            yield from self._in_frames(flow, anchors, sources)
            return
        n = anchors.shape[1]
        for frames in flow.segments:
            run = slice(frames[0], frames[-1] + 1)
            hosts, guests = self._in_segment(anchors[run], sources[run])
            if bool(hosts.any()) and bool(guests.any()):
                right, left = padded_index(hosts), padded_index(guests)
                start = run.start * n
                yield Problem(right[0] + start, right[1], left[0] + start, left[1])

    def _in_segment(self, anchors: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """Return the anchors and sources of the problems of a segment, (problems, tokens) each."""
        return anchors.flatten()[None], sources.flatten()[None]

    def _in_frames(self, flow: Flow, anchors: Tensor, sources: Tensor) -> Iterator[Problem]:
        (count, n), dim = anchors.shape, flow.unflushed.features.shape[-1]
        # A gathered row costs about what a needless one does in the matrix products.
        whole = self.transport.pairwise and 2 * int(sources.sum()) >= sources.numel()
        most = int((anchors if whole else anchors | sources).sum(-1).max())
        chunks = [slice(0, count)]
        if self.transport.independent:
            chunks = flow.chunks(count, most * max(n, dim))
        for frames in chunks:
            start = torch.arange(frames.start, frames.stop, device=anchors.device)[:, None] * n
            right = padded_index(anchors[frames])
            if whole:
                left = torch.arange(n, device=anchors.device), sources[frames]
            else:
                left = padded_index(sources[frames])
            if right[0].numel() and left[0].numel():
                sides = right[0] + start, right[1], left[0] + start, left[1]
                yield Problem(*sides, frames if whole else None)


def _pool_of(tokens: VisualTokens) -> VisualTokens:
    """Return a video as one tall frame, its frames one below the other; nothing is copied."""
    rows, columns = tokens.grid
    return replace(
        tokens,
        features=tokens.features.flatten(0, 1)[None],
        grid=(len(tokens.keep) * rows, columns),
        keep=tokens.keep.flatten()[None],
        frame_times=tokens.frame_times[:1],
        cues={
            name: cue.flatten(0, 1)[None]
            for name, cue in tokens.cues.items()
            if not is_of_frames(name)
        },
        segments=None,
    )


def _frames_of(tokens: VisualTokens, frames: list[int]) -> VisualTokens:
    """Return some frames of a video, without segments."""
    return replace(
        tokens,
        features=tokens.features[frames],
        keep=tokens.keep[frames],
        frame_times=tokens.frame_times[frames],
        cues={name: cue[frames] for name, cue in tokens.cues.items()},
        segments=None,
    )
