"""The frame stage: select anchors in each frame, couple other tokens to them, aggregate."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from tokenred.config import FrozenModel, StrategyConfig, TokenCue
from tokenred.errors import ConfigError, InputError
from tokenred.interfaces import Aggregator, AnchorSelector, BudgetAllocator, CostTerm, Coupler
from tokenred.kernels.merge import padded_index
from tokenred.kernels.sparse import sparse_map
from tokenred.pipeline.budget import AnchorCount, Rounding
from tokenred.pipeline.flow import Flow, TokenTable, Transport
from tokenred.pipeline.merges import Merge, Problem
from tokenred.pipeline.merging import couple, mass_needs, solve
from tokenred.pipeline.quotas import anchor_counts
from tokenred.slots import Slot, build
from tokenred.types import VisualTokens


class CouplingStageConfig(FrozenModel):
    """What every stage that couples has: cost, coupler, aggregator."""

    cost: tuple[Slot[CostTerm], ...] = Field(
        ("cosine",), validate_default=True, description="cost terms of moving a source to an anchor"
    )
    combine: Literal["sum", "product"] = Field("sum", description="how cost terms are combined")
    coupler: Slot[Coupler] = Field(
        "none", validate_default=True, description="how much of a source goes to which anchor"
    )
    aggregator: Slot[Aggregator] = Field(
        "keep-only", validate_default=True, description="how anchors take in what they are sent"
    )

    @field_validator("cost")
    @classmethod
    def _distinct(cls, terms: tuple[StrategyConfig, ...]) -> tuple[StrategyConfig, ...]:
        names = [term.name for term in terms]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a cost is one or more different terms")
        return terms


class FrameStageConfig(CouplingStageConfig):
    """Settings of the frame stage."""

    kind: Literal["frame"] = "frame"
    n_anchors: AnchorCount = Field(  # type: ignore[valid-type]
        "budget",
        description="anchors a frame: 'budget' (what is left of it), 'budget * 54/64' or "
        "'budget - 1' (of all that it gives a frame), a number, a share of the grid (of the open "
        "tokens if the stage works on a part), or a table from retention ratio to share",
    )
    rounding: Rounding = Field("nearest", description="of a share of the budget or of a part")
    allocator: Slot[BudgetAllocator] = Field(
        "equal", validate_default=True, description="how the anchors are divided among the frames"
    )
    selector: Slot[AnchorSelector] = Field(description="which tokens of a frame stay")
    part: Literal["all", "static", "dynamic"] = Field(
        "all", description="work on all tokens, or on one part that a static stage made"
    )
    spare_up_to: int = Field(
        0,
        ge=0,
        le=2**20,
        description="a frame with at most so many tokens in the part is left as it is",
    )
    scope: Literal["frame", "segment", "segment-each"] = Field(
        "frame",
        description="whose tokens an anchor may take in: its frame's; its segment's, all anchors "
        "of the segment competing; or its segment's, every frame's anchors on their own",
    )
    sources: Literal["rest", "all"] = Field(
        "rest", description="'all': the other anchors are sources as well"
    )
    mass: TokenCue = Field(
        "uniform",
        description="marginals of the coupling: 'uniform', 'size' (tokens that each stands for), "
        "or the values of a per-token cue",
    )
    rest: Literal["drop", "leave"] = Field(
        "drop", description="'leave': anchors are settled, the others stay for later stages"
    )
    max_drop: float | None = Field(
        None, gt=0, lt=1, description="share of the tokens that may go at once; then it repeats"
    )
    order: Literal["raster", "stage", "selection"] = Field(
        "raster",
        description="where anchors stand in their frame: in their places; behind those of earlier "
        "stages; behind them in the selector's order",
    )
    places: Literal["own", "shuffled"] = Field(
        "own",
        description="'shuffled': the i-th anchor of a frame claims the place of the selector's "
        "i-th, a bug of released code",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "FrameStageConfig":
        if self.max_drop is not None and self.rest == "leave":
            raise ConfigError("rest: leave drops nothing, so it has no max_drop", ["max_drop"])
        if self.part == "all" and self.spare_up_to:
            raise ConfigError("only a stage that works on a part spares frames", ["spare_up_to"])
        if self.part != "all" and self.allocator.name != "equal":
            raise ConfigError("a part is divided by what each frame has of it", ["allocator"])
        return self


class FrameStage:
    """Runs one frame stage."""

    def __init__(self, config: FrameStageConfig) -> None:
        self.config = config
        self.selector = build(AnchorSelector, config.selector)
        self.allocator = build(BudgetAllocator, config.allocator)
        self.transport = Transport(config.cost, config.combine, config.coupler)
        self.aggregator = build(Aggregator, config.aggregator)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the parts ask for."""
        return (
            self.selector.needs
            | self.allocator.needs
            | self.transport.needs
            | mass_needs(self.config.mass)
        )

    def run(self, flow: Flow) -> None:
        """Narrow the tokens to the anchors and merge the others into them."""
        config = self.config
        goal = anchor_counts(flow, config, self.allocator)
        while True:
            tokens = flow.open(config.part)
            counts = goal
            if config.max_drop is not None:
                # One at a time where the share is less than one, so that it ends.
                least = (n - max(1, int(n * config.max_drop)) for n in tokens.sum(-1).tolist())
                counts = [max(pair) for pair in zip(goal, least)]
            self._step(flow, tokens, counts)
            if counts == goal:
                break
        if config.part != "all":
            flow.decided |= {config.part}

    def _step(self, flow: Flow, tokens: Tensor, counts: Sequence[int]) -> None:
        """Select ``counts`` anchors a frame among ``tokens``; merge, settle or drop the rest."""
        anchors, rank = self._select(flow, tokens, counts)
        rest = tokens & ~anchors
        sources = tokens if self.config.sources == "all" else rest
        if self.aggregator.merges and bool(sources.any()) and bool(anchors.any()):
            flow.merge(self._merges(flow, tokens, anchors, sources), int(anchors.sum()))
        if self.config.places == "shuffled":
            _shuffle(flow, anchors, rank)
        if self.config.order != "raster":
            flow.order_last(anchors, rank if self.config.order == "selection" else None)
        flow.keep_value = anchors.float()
        if self.config.rest == "leave":
            flow.settle(anchors)
        else:
            flow.update(keep=flow.unflushed.keep & ~rest)

    def _select(self, flow: Flow, tokens: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the anchors as a mask, and each one's place in the selector's order."""
        anchors = torch.zeros_like(tokens)
        rank = torch.zeros(tokens.shape, dtype=torch.long, device=tokens.device)
        ordered = self.config.order == "selection" or self.config.places == "shuffled"
        asks = ordered or self.selector.adaptive
        have = tokens.sum(-1).tolist()
        view = replace(flow.tokens, keep=tokens)
        for count in sorted(set(counts) - {0}):
            frames = [t for t, n in enumerate(counts) if n == count]
            whole = [t for t in frames if have[t] == count]
            whole = whole if not asks else [t for t in whole if count <= self.config.spare_up_to]
            if whole:
                anchors[whole] = tokens[whole]
                rank[whole] = torch.arange(tokens.shape[1], device=tokens.device)
                frames = [t for t in frames if t not in set(whole)]
            if not frames:
                continue
            chosen, order = self._chosen(view, frames, count, flow.generator)
            if bool((chosen & ~tokens[frames]).any()) or (
                self.config.rest == "drop" and not bool(chosen.any(-1).all())
            ):
                raise InputError(
                    f"selector '{self.config.selector.name}' chose a dropped token or none in a "
                    "frame"
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
        for problem in self._problems(flow, anchors, sources):
            coupling = couple(
                flow,
                table,
                problem,
                self.transport,
                mass=self.config.mass,
                apart=self.config.sources == "all",
            )
            yield solve(problem, coupling, self.aggregator, self.config.mass)

    def _problems(self, flow: Flow, anchors: Tensor, sources: Tensor) -> Iterator[Problem]:
        (count, n), dim = anchors.shape, flow.unflushed.features.shape[-1]
        if self.config.scope == "frame":
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
            return
        for frames in flow.segments:
            where = slice(frames[0] * n, frames[-1] * n + n)
            inside = anchors.flatten()[where], sources.flatten()[where]
            hosts = [t - frames[0] for t in frames if bool(anchors[t].any())]
            if self.config.scope == "segment" or not hosts:
                both = inside[0][None], inside[1][None]
            else:
                frame = torch.arange(len(inside[0]), device=anchors.device) // n
                mine = frame == torch.tensor(hosts, device=anchors.device)[:, None]
                both = mine & inside[0], (inside[0] | inside[1]) & ~(mine & inside[0])
            if bool(both[0].any()) and bool(both[1].any()):
                right, left = padded_index(both[0]), padded_index(both[1])
                yield Problem(right[0] + where.start, right[1], left[0] + where.start, left[1])


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


def _shuffle(flow: Flow, anchors: Tensor, rank: Tensor) -> None:
    """Move the i-th anchor of every frame, in raster order, to the place of the selector's i-th."""
    n, size = anchors.shape[1], anchors.numel()
    start = torch.arange(0, size, n, device=anchors.device)[:, None]
    raster, real = padded_index(anchors)
    by_rank = rank.masked_fill(~anchors, n).argsort(dim=-1, stable=True)[:, : raster.shape[1]]
    source = torch.arange(size, device=anchors.device)
    source[(by_rank + start)[real]] = (raster + start)[real]
    moved = flow.tokens.features.flatten(0, 1).index_select(0, source)
    flow.own(moved.view_as(flow.tokens.features))
    flow.mass = flow.mass.flatten()[source].view_as(flow.mass)
    if flow.tracing:
        index = torch.stack([torch.arange(size, device=source.device), source])
        flow.extend_trace(sparse_map(index, torch.ones(size, device=source.device), (size, size)))
