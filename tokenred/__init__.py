"""tokenred: visual-token reduction for video LLMs, as interchangeable parts.

select anchors -> couple the other tokens to them -> aggregate -> (segment time, and once more)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenred.errors import (
    BudgetError,
    CapabilityError,
    ConfigError,
    InputError,
    PluginError,
    TokenredError,
)
from tokenred.hookspecs import hookimpl
from tokenred.plugins import registry

if TYPE_CHECKING:  # what these modules import takes seconds, so it waits for the first use
    from tokenred.config import CostTermConfig, StrategyConfig
    from tokenred.decorator import register
    from tokenred.interfaces import (
        Aggregator,
        AnchorSelector,
        BudgetAllocator,
        CachePruner,
        CostTerm,
        Coupler,
        FrameReference,
        KeepDecision,
        KeepScore,
        LayerMerger,
        LayerReducer,
        StaticRule,
        TemporalSegmenter,
        TokenGrouper,
        TokenRanker,
    )
    from tokenred.models.attach import attach
    from tokenred.models.loading import load_model
    from tokenred.models.tensors import reduce
    from tokenred.pipeline import Pipeline, PipelineConfig, load_pipeline
    from tokenred.pipeline.calibrate import calibrate
    from tokenred.pipeline.stage import Stage, StageConfig
    from tokenred.types import (
        Coupling,
        MergeWeights,
        Realised,
        ReducedTokens,
        Segments,
        TokenGroup,
        VisualTokens,
    )
    from tokenred.video import read_image, read_video

__version__ = "0.1.0"

__all__ = [
    "Aggregator",
    "AnchorSelector",
    "BudgetAllocator",
    "BudgetError",
    "CachePruner",
    "CapabilityError",
    "ConfigError",
    "CostTerm",
    "CostTermConfig",
    "Coupler",
    "Coupling",
    "FrameReference",
    "InputError",
    "KeepDecision",
    "KeepScore",
    "LayerMerger",
    "LayerReducer",
    "MergeWeights",
    "Pipeline",
    "PipelineConfig",
    "PluginError",
    "Realised",
    "ReducedTokens",
    "Segments",
    "Stage",
    "StageConfig",
    "StaticRule",
    "StrategyConfig",
    "TemporalSegmenter",
    "TokenGroup",
    "TokenGrouper",
    "TokenRanker",
    "TokenredError",
    "VisualTokens",
    "attach",
    "calibrate",
    "hookimpl",
    "load_model",
    "load_pipeline",
    "read_image",
    "read_video",
    "reduce",
    "register",
    "registry",
]

_LAZY = {
    "config": "CostTermConfig StrategyConfig",
    "decorator": "register",
    "interfaces": "Aggregator AnchorSelector BudgetAllocator CachePruner CostTerm Coupler "
    "FrameReference KeepDecision KeepScore LayerMerger LayerReducer StaticRule TemporalSegmenter "
    "TokenGrouper TokenRanker",
    "models.attach": "attach",
    "models.loading": "load_model",
    "models.tensors": "reduce",
    "pipeline": "Pipeline PipelineConfig load_pipeline",
    "pipeline.calibrate": "calibrate",
    "pipeline.stage": "Stage StageConfig",
    "types": "Coupling MergeWeights Realised ReducedTokens Segments TokenGroup VisualTokens",
    "video": "read_image read_video",
}
"""Module -> what is imported from it when it is first asked for."""


def __getattr__(name: str) -> Any:
    for module, names in _LAZY.items():
        if name in names.split():
            return getattr(import_module(f"tokenred.{module}"), name)
    raise AttributeError(f"module 'tokenred' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
