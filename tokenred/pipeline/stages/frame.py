"""The frame stage: inside each frame select anchors, couple the others to them, aggregate."""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from tokenred.config import (
    AggregatorSlot,
    CostTermConfig,
    CostTermSlot,
    CouplerSlot,
    FrozenModel,
    SelectorSlot,
    build,
)
from tokenred.errors import ConfigError, InputError
from tokenred.kernels.merge import apply_merge, gather_tokens, padded_index
from tokenred.kernels.sparse import sparse_map
from tokenred.pipeline.budget import AnchorCount, resolve_anchors
from tokenred.pipeline.flow import Flow, Transport, grid_positions, uniform_mass
from tokenred.types import MergeWeights, TokenGroup


class CouplingStageConfig(FrozenModel):
    """What every stage that couples has: cost, coupler, aggregator."""

    cost: tuple[CostTermSlot, ...] = Field(
        ("cosine",), validate_default=True, description="cost terms of moving a source to an anchor"
    )
    combine: Literal["sum", "product"] = Field("sum", description="how cost terms are combined")
    coupler: CouplerSlot = Field(
        "none", validate_default=True, description="how much of a source goes to which anchor"
    )
    aggregator: AggregatorSlot = Field(
        "keep-only", validate_default=True, description="how anchors take in what they are sent"
    )

    @field_validator("cost")
    @classmethod
    def _distinct(cls, terms: tuple[CostTermConfig, ...]) -> tuple[CostTermConfig, ...]:
        names = [term.name for term in terms]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a cost is one or more different terms")
        return terms


class FrameStageConfig(CouplingStageConfig):
    """Settings of the frame stage."""

    kind: Literal["frame"] = "frame"
    n_anchors: AnchorCount = Field(  # type: ignore[valid-type]
        "budget",
        description="anchors a frame: 'budget', a number, a share of the grid, or a table from "
        "retention ratio to share",
    )
    selector: SelectorSlot = Field(description="which tokens of a frame stay")


class FrameStage:
    """Runs one frame stage."""

    def __init__(self, config: FrameStageConfig) -> None:
        self.config = config
        self.selector = build("selector", config.selector)
        self.transport = Transport(config.cost, config.combine, config.coupler)
        self.aggregator = build("aggregator", config.aggregator)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the selector asks for."""
        return frozenset(self.selector.needs)

    def run(self, flow: Flow) -> None:
        """Narrow the tokens to the anchors and merge the others into them."""
        anchors = self._select(flow)
        sources = flow.tokens.keep & ~anchors
        if self.aggregator.merges and bool(sources.any()):
            self._merge(flow, anchors, sources)
        flow.keep_value = anchors.float()
        flow.update(keep=anchors)

    def _count(self, flow: Flow) -> int:
        if self.config.n_anchors == "budget" and flow.pooled:
            return flow.quota  # a share of what the LLM would see, whatever this grid is
        tokens = flow.tokens.features.shape[1]
        return resolve_anchors(self.config.n_anchors, tokens, flow.budget.retention_ratio)

    def _select(self, flow: Flow) -> Tensor:
        tokens = flow.tokens
        n_anchors = self._count(flow)
        alive = int(tokens.keep.sum(-1).min())
        if n_anchors > alive:
            if flow.exact and self.config.n_anchors == "budget":
                raise flow.unreachable("most", alive * flow.frames)
            raise InputError(f"{n_anchors} anchors asked for, a frame has {alive} tokens left")
        if n_anchors == tokens.features.shape[1]:
            return tokens.keep
        chosen = self.selector.select(tokens, n_anchors, generator=flow.generator)
        if chosen.dtype != torch.bool:
            chosen = torch.zeros_like(tokens.keep).scatter(-1, chosen.to(tokens.keep.device), True)
        if bool((chosen & ~tokens.keep).any()) or not bool(chosen.any(-1).all()):
            raise InputError(
                f"selector '{self.config.selector.name}' chose a dropped token or none in a frame"
            )
        return chosen

    def _merge(self, flow: Flow, anchors: Tensor, sources: Tensor) -> None:
        tokens = flow.tokens
        anchor_index, anchor_real = padded_index(anchors)
        source_index, source_real = padded_index(sources)
        positions = grid_positions(tokens.grid, tokens.features.device)
        times = tokens.frame_times.new_zeros(())

        def group(index: Tensor) -> TokenGroup:
            return TokenGroup(
                gather_tokens(tokens.features, index), positions[index], times.expand(index.shape)
            )

        left, right = group(source_index), group(anchor_index)
        coupling = self.transport(left, right, uniform_mass(source_real), uniform_mass(anchor_real))
        flow.note(coupling)
        weights = self.aggregator.weights(coupling)
        merged = apply_merge(right.features, left.features, weights)
        frame = torch.arange(flow.frames, device=merged.device)[:, None].expand_as(anchor_index)
        place = frame[anchor_real], anchor_index[anchor_real]
        flow.update(features=tokens.features.index_put(place, merged[anchor_real]))
        mass = apply_merge(
            flow.mass.gather(-1, anchor_index)[..., None],
            flow.mass.gather(-1, source_index)[..., None],
            weights,
        )[..., 0]
        mass = mass / weights.anchor.to(mass.dtype)
        flow.mass = flow.mass.index_put(place, mass[anchor_real].detach())
        if flow.tracing:
            flow.extend_trace(
                _stage_map(tokens.keep.shape, anchor_index, anchor_real, source_index, weights)
            )


def _stage_map(
    shape: torch.Size, anchors: Tensor, real: Tensor, sources: Tensor, weights: MergeWeights
) -> Tensor:
    """Return the sparse map of the merge over flat tokens; other rows are the identity."""
    frames, tokens = shape
    offset = torch.arange(frames, device=anchors.device)[:, None] * tokens
    rows = (anchors + offset)[real]
    diagonal = torch.ones(frames * tokens, device=anchors.device, dtype=weights.anchor.dtype)
    diagonal = diagonal.index_put((rows,), weights.anchor.detach()[real])
    everything = torch.arange(frames * tokens, device=anchors.device)
    moved = weights.source.detach().mT[real]  # (anchors, sources of the same frame)
    columns = (sources + offset)[:, None, :].expand(-1, anchors.shape[1], -1)[real]
    hit = moved != 0
    index = torch.cat(
        [
            torch.stack([everything, everything]),
            torch.stack([rows[:, None].expand_as(columns)[hit], columns[hit]]),
        ],
        dim=1,
    )
    values = torch.cat([diagonal, moved[hit]]).float()
    return sparse_map(index, values, (frames * tokens, frames * tokens))
