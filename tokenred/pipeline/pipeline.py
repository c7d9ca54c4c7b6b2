"""Runs the stages of a pipeline over the tokens of one video."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import torch
from torch import Tensor

from tokenred.config import is_of_frames
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
from tokenred.pipeline.config import PipelineConfig, build_stages, load_config
from tokenred.pipeline.flow import Flow, Notes, Output
from tokenred.pipeline.inside import InsideLlm
from tokenred.pipeline.kept import warn_of_budget
from tokenred.pipeline.stage import Stage
from tokenred.promises import claims
from tokenred.types import Realised, ReducedTokens, StageReport, VisualTokens


class Pipeline:
    """A list of stages, ready to run.

    ``stages`` are what it is made of, by their labels. ``run`` does what stands before the LLM;
    ``inside_llm`` holds what acts between its layers, which ``tokenred.attach`` brings to work.

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
        self.stages: Mapping[str, Stage] = MappingProxyType(build_stages(config.stages))
        inside = [(label, stage.inside) for label, stage in self.stages.items()]
        self.inside_llm = InsideLlm(
            tuple((label, each) for label, each in inside if isinstance(each, LayerReducer)),
            tuple((label, each) for label, each in inside if isinstance(each, CachePruner)),
        )

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that the tokens must bring."""
        return frozenset().union(*(stage.needs for stage in self.stages.values()))

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
        drawn = generator.clone_state()
        flow = Flow.start(tokens, self.config.budget, generator, trace)
        reports = [self._run_stage(flow, *each) for each in self._before_the_llm()]
        reduced = reduced_tokens(flow, tuple(reports))
        if not _finite(reduced.features, reduced.mass):
            raise InputError(self._overflow(tokens, drawn))
        kept = reduced.realised
        if flow.exact and kept.n_tokens != flow.target:
            raise BudgetError(
                f"{flow.target} tokens (retention_ratio {flow.budget.retention_ratio:g}) cannot be "
                f"met: these stages keep {kept.n_tokens} (retention_ratio "
                f"{kept.retention_ratio:.4f}), which budget.mode: as-released accepts"
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
        pools = any(stage.pools for stage in self.stages.values())
        if tokens.native_pool != "none" and not pools:
            raise CapabilityError(
                f"the model pools its tokens, but pipeline '{self.config.name}' has no pool stage"
            )
        if not bool(tokens.keep.any(-1).all()):
            raise InputError("a frame has no token left to begin with")
        named = {"features": tokens.features, **tokens.cues}
        limit = _limit(tokens.features)
        usual = _largest(*named.values()) <= limit
        for name, values in named.items():
            if not usual and not _finite(values):
                raise InputError(f"{name} hold NaN or infinity")
            if not usual and name == "features" and _largest(values) > limit:
                raise InputError(
                    f"features reach {_largest(values):.3g}; beyond {limit:.3g} sums of their "
                    "squares overflow"
                )
            of_frames = is_of_frames(name)
            if of_frames and len(values) != len(tokens.keep):
                raise InputError(
                    f"cue {name} has {len(values)} entries, one for each of the "
                    f"{len(tokens.keep)} frames is needed"
                )
            per_token = name != "features" and not of_frames
            if per_token and values.shape[:2] != tokens.keep.shape:
                raise InputError(
                    f"cue {name} has shape {tuple(values.shape)}, the tokens have "
                    f"{tuple(tokens.keep.shape)}"
                )

    def _before_the_llm(self) -> Iterator[tuple[str, Stage]]:
        return (each for each in self.stages.items() if each[1].inside is None)

    def _overflow(self, tokens: VisualTokens, drawn: torch.Generator) -> str:
        """Run once more, with a look at the features after every stage, and name the culprit."""
        flow = Flow.start(tokens, self.config.budget, drawn, tracing=False)
        label = ""
        for label, stage in self._before_the_llm():
            self._run_stage(flow, label, stage)
            now = reduced_tokens(flow)
            if not _finite(now.features, now.mass):
                break
        most = float(tokens.features.abs().max())
        return (
            f"stage '{label}' makes features with NaN or infinity of finite ones in "
            f"{tokens.features.dtype}, the largest of which is {most:.3g}"
        )

    def _run_stage(self, flow: Flow, label: str, stage: Stage) -> StageReport:
        flow.notes = Notes()
        start = time.perf_counter()
        try:
            with claims():
                stage.run(flow)
        except ConfigError as error:
            raise error.below(["stages", label]) from None
        except TokenredError as error:
            raise type(error)(f"stage '{label}': {error}") from None
        # Counting waits for the device, so the time is that of the finished stage.
        n_tokens = len(flow.output.place) if flow.output else int(flow.unflushed.keep.sum())
        ms = (time.perf_counter() - start) * 1e3
        return StageReport(label, stage.config.kind, n_tokens, ms, **vars(flow.notes))


def _finite(*tensors: Tensor) -> bool:
    """Return whether no entry is NaN or infinite."""
    return _largest(*tensors) < torch.inf


def _largest(*tensors: Tensor) -> float:
    """Return the largest magnitude, infinity for NaN; one pass, one host read for each device."""
    ends: dict[torch.device, list[Tensor]] = {}
    for each in tensors:
        if each.numel():
            ends.setdefault(each.device, []).extend(each.detach().aminmax())
    found = (torch.stack([end.double() for end in here]).abs() for here in ends.values())
    return max((float(here.nan_to_num(torch.inf, torch.inf).max()) for here in found), default=0.0)


def _limit(features: Tensor) -> float:
    """Return the largest entry with which squared distances fit the numbers that costs are in."""
    wide = torch.promote_types(features.dtype, torch.float32)
    return float(0.25 * (torch.finfo(wide).max / features.shape[-1]) ** 0.5)


def load_pipeline(
    source: str | Path | Mapping[str, Any] | PipelineConfig,
    overrides: Mapping[str, Any] | None = None,
) -> Pipeline:
    """Load a preset by name, a YAML file by path or a mapping, with dotted paths overridden."""
    if isinstance(source, PipelineConfig):
        source = source.to_dict() if overrides else source
    config = source if isinstance(source, PipelineConfig) else load_config(source, overrides)
    return Pipeline(config)


def reduced_tokens(flow: Flow, reports: tuple[StageReport, ...] = ()) -> ReducedTokens:
    """Collect the surviving tokens in the order of the sequence."""
    output = flow.output or Output.at(flow, flow.in_order())
    frame_index = output.place // flow.unflushed.keep.shape[1]
    counted = frame_index if output.newline is None else frame_index[~output.newline]
    realised = Realised(
        n_tokens=len(counted),
        vanilla_tokens=flow.frames * flow.vanilla_cells,
        tokens_per_frame=tuple(counted.bincount(minlength=flow.frames).tolist()),
        reducer_ms=sum((report.ms for report in reports), 0.0),
        stages=reports,
        newline_tokens=len(frame_index) - len(counted),
        segments=flow.unflushed.segments,
    )
    groups = None
    if flow.static is not None:
        groups = 2 * frame_index + flow.static.flatten()[output.place].long()
    return ReducedTokens(
        output.features,
        frame_index,
        output.place % flow.unflushed.keep.shape[1],
        output.mass,
        flow.unflushed.grid,
        realised,
        None if output.trace is None else output.trace.coalesce(),
        groups,
        output.newline,
    )
