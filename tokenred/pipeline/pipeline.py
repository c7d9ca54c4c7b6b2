"""Runs the stages of a pipeline over the tokens of one video."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from tokenred.config import PER_FRAME_CUES
from tokenred.errors import (
    BudgetError,
    CapabilityError,
    ConfigError,
    InputError,
    TokenredError,
    nearest,
)
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.kernels.pooling import PoolMode
from tokenred.kernels.sparse import sparse_identity
from tokenred.pipeline.config import INSIDE_LLM, PipelineConfig, load_config
from tokenred.pipeline.flow import Flow, Notes
from tokenred.pipeline.kept import warn_of_budget
from tokenred.pipeline.stages.cut import CutStage, CutStageConfig
from tokenred.pipeline.stages.frame import FrameStage, FrameStageConfig
from tokenred.pipeline.stages.group import GroupStage, GroupStageConfig
from tokenred.pipeline.stages.llm import CacheStageConfig, InsideLlm, LlmStageConfig
from tokenred.pipeline.stages.pool import PoolStage, PoolStageConfig
from tokenred.pipeline.stages.reference import ReferenceStage, ReferenceStageConfig
from tokenred.pipeline.stages.segment import SegmentStage, SegmentStageConfig
from tokenred.pipeline.stages.static import StaticStage, StaticStageConfig
from tokenred.slots import build
from tokenred.strategy import Strategy
from tokenred.types import Realised, ReducedTokens, StageReport, VisualTokens

_STAGES: dict[type, Any] = {
    FrameStageConfig: FrameStage,
    PoolStageConfig: PoolStage,
    CutStageConfig: CutStage,
    StaticStageConfig: StaticStage,
    ReferenceStageConfig: ReferenceStage,
    GroupStageConfig: GroupStage,
    SegmentStageConfig: SegmentStage,
}


class Pipeline:
    """A list of stages, ready to run.

    ``run`` does what stands before the LLM. ``inside_llm`` holds the stages between its layers,
    which ``tokenred.attach`` brings to work.

    Examples
    --------
    >>> import torch, tokenred
    >>> tokens = tokenred.VisualTokens.of(torch.randn(4, 36, 8), (6, 6), native_pool="bilinear")
    >>> reduced = tokenred.load_pipeline("random", {"budget.retention_ratio": 0.25}).run(tokens)
    >>> reduced.features.shape
    torch.Size([12, 8])
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self._has_warned = False
        self._stages = [
            (label, stage.kind, _STAGES[type(stage)](stage))
            for label, stage in config.stages.items()
            if not isinstance(stage, INSIDE_LLM)
        ]
        self.inside_llm = InsideLlm(
            _inside(config, LlmStageConfig, "reducer", LayerReducer),
            _inside(config, CacheStageConfig, "pruner", CachePruner),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that the tokens must bring."""
        return frozenset().union(*(stage.needs for _, _, stage in self._stages))

    def run(
        self,
        tokens: VisualTokens,
        *,
        generator: torch.Generator | None = None,
        trace: bool = False,
    ) -> ReducedTokens:
        """Reduce the tokens of one video.

        Parameters
        ----------
        tokens : tokens on the encoder's grid, with the cues in ``needs``
        generator : source of randomness; by default a fresh one from the config's ``seed``
        trace : also return the sparse linear map from encoder tokens to kept tokens

        Raises
        ------
        InputError
            If features or cues hold NaN or infinity, or a frame has no token left.
        CapabilityError
            If a cue is missing, or the model pools and the pipeline has no pool stage.
        BudgetError
            If the budget cannot be met; the message names the nearest that can.
        """
        self._check(tokens)
        if generator is None:
            generator = torch.Generator().manual_seed(self.config.seed)
        flow = Flow.start(tokens, self.config.budget, generator, trace)
        reports = [self._run_stage(flow, *stage) for stage in self._stages]
        reduced = _pack(flow, tuple(reports))
        kept = reduced.realised
        if flow.exact and kept.n_tokens != flow.target:
            raise BudgetError(
                f"{flow.target} tokens (retention_ratio {flow.budget.retention_ratio:g}) cannot be "
                f"met: these stages keep {kept.n_tokens} (retention_ratio "
                f"{kept.retention_ratio:.4f}), which budget.mode: as-released accepts"
            )
        if not _finite(reduced.features):
            raise InputError(
                "the tokens that are kept hold NaN or infinity: some setting is too extreme, such "
                "as a large cost weight with a small epsilon"
            )
        self._has_warned = self._has_warned or warn_of_budget(self.config, kept)
        return reduced

    def _check(self, tokens: VisualTokens) -> None:
        missing = sorted(self.needs - set(tokens.cues))
        if missing:
            raise CapabilityError(
                f"pipeline '{self.config.name}' needs cues that are missing: {', '.join(missing)}"
            )
        if tokens.native_pool not in get_args(PoolMode):
            known = nearest(tokens.native_pool, get_args(PoolMode))
            raise InputError(f"unknown native_pool '{tokens.native_pool}'{known}")
        kinds = {kind for _, kind, _ in self._stages}
        if tokens.native_pool != "none" and "pool" not in kinds:
            raise CapabilityError(
                f"the model pools its tokens, but pipeline '{self.config.name}' has no pool stage"
            )
        if not bool(tokens.keep.any(-1).all()):
            raise InputError("a frame has no token left to begin with")
        named = {"features": tokens.features, **tokens.cues}
        all_finite = _finite(*named.values())
        for name, values in named.items():
            if not all_finite and not _finite(values):
                raise InputError(f"{name} hold NaN or infinity")
            per_token = name != "features" and name not in PER_FRAME_CUES
            if per_token and values.shape[:2] != tokens.keep.shape:
                raise InputError(
                    f"cue {name} has shape {tuple(values.shape)}, the tokens have "
                    f"{tuple(tokens.keep.shape)}"
                )

    def _run_stage(self, flow: Flow, label: str, kind: str, stage: Any) -> StageReport:
        flow.notes = Notes()
        start = time.perf_counter()
        try:
            stage.run(flow)
        except ConfigError as error:
            raise error.below(["stages", label]) from None
        except TokenredError as error:
            raise type(error)(f"stage '{label}': {error}") from None
        # Counting waits for the device, so the time is that of the finished stage.
        n_tokens = int(flow.unflushed.keep.sum()) + (len(flow.twins.place) if flow.twins else 0)
        ms = (time.perf_counter() - start) * 1e3
        return StageReport(label, kind, n_tokens, ms, **vars(flow.notes))


def _finite(*tensors: Tensor) -> bool:
    """Return whether no entry is NaN or infinite; the ends of a range show either, in one pass."""
    ends: dict[torch.device, list[Tensor]] = {}
    for each in tensors:
        if each.numel():
            ends.setdefault(each.device, []).extend(each.detach().aminmax())
    stacks = (torch.stack([end.double() for end in here]) for here in ends.values())
    return all(bool(torch.isfinite(stack).all()) for stack in stacks)


def _inside(
    config: PipelineConfig, kind: type, slot: str, role: type[Strategy]
) -> tuple[tuple[str, Any], ...]:
    """Build what the stages of one kind hold, by their labels."""
    found = []
    for label, stage in config.stages.items():
        if isinstance(stage, kind):
            try:
                found.append((label, build(role, getattr(stage, slot))))
            except ConfigError as error:
                raise error.below(["stages", label, slot]) from None
    return tuple(found)


def load_pipeline(
    source: str | Path | Mapping[str, Any] | PipelineConfig,
    overrides: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Load a preset by name, a YAML file by path or a mapping, with dotted paths overridden."""
    if isinstance(source, PipelineConfig):
        source = source.to_dict() if overrides else source
    config = source if isinstance(source, PipelineConfig) else load_config(source, overrides)
    return Pipeline(config)


def _pack(flow: Flow, reports: tuple[StageReport, ...]) -> ReducedTokens:
    """Collect the surviving tokens in the order of the sequence."""
    tokens, mass, trace = flow.unflushed, flow.mass.flatten(), flow.trace
    places = _in_order(flow) if flow.sequence is None else flow.sequence
    origin = torch.arange(len(mass), device=mass.device)
    if flow.tracing and trace is None:
        trace = sparse_identity(len(mass), mass.device)
    if flow.twins is not None:
        mass = torch.cat([mass, flow.twins.mass])
        origin = torch.cat([origin, flow.twins.place])
        if flow.tracing and trace is not None:
            assert flow.twins.trace is not None
            trace = torch.cat([trace, flow.twins.trace])
    where = origin[places]
    features = flow.at(where)
    if flow.twins is not None:
        twin = places - tokens.keep.numel()
        here = (twin >= 0).nonzero()[:, 0]
        features = features.index_copy_(0, here, flow.twins.features[twin[here]])
    frame_index = where // tokens.keep.shape[1]
    realised = Realised(
        n_tokens=len(places),
        vanilla_tokens=flow.frames * flow.vanilla_cells,
        tokens_per_frame=tuple(frame_index.bincount(minlength=flow.frames).tolist()),
        reducer_ms=sum((report.ms for report in reports), 0.0),
        stages=reports,
        segments=tokens.segments,
    )
    return ReducedTokens(
        features,
        frame_index,
        where % tokens.keep.shape[1],
        mass[places],
        tokens.grid,
        realised,
        torch.index_select(trace, 0, places).coalesce() if trace is not None else None,
        None if flow.static is None else 2 * frame_index + flow.static.flatten()[where].long(),
    )


def _in_order(flow: Flow) -> Tensor:
    """Return the flat places of the surviving tokens, frame by frame."""
    places = flow.unflushed.keep.flatten().nonzero()[:, 0]
    if flow.order is None:
        return places
    by_order = places[flow.order.flatten()[places].argsort(stable=True)]
    return by_order[(by_order // flow.unflushed.keep.shape[1]).argsort(stable=True)]
