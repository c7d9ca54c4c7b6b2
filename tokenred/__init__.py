"""tokenred: visual-token reduction for video LLMs, as interchangeable parts.

select anchors -> couple the other tokens to them -> aggregate -> (segment time, and once more)
"""

from importlib import import_module
from typing import Any

from tokenred.config import CostTermConfig, StrategyConfig
from tokenred.errors import (
    BudgetError,
    CapabilityError,
    ConfigError,
    InputError,
    PluginError,
    TokenredError,
)
from tokenred.hookspecs import hookimpl
from tokenred.interfaces import (
    Aggregator,
    AnchorSelector,
    CostTerm,
    Coupler,
    KeepDecision,
    KeepScore,
    TemporalSegmenter,
)
from tokenred.pipeline import Pipeline, PipelineConfig, calibrate, load_pipeline
from tokenred.registry import registry
from tokenred.types import (
    Coupling,
    MergeWeights,
    Realised,
    ReducedTokens,
    Segments,
    TokenGroup,
    VisualTokens,
)

__version__ = "0.1.0"

__all__ = [
    "Aggregator",
    "AnchorSelector",
    "BudgetError",
    "CapabilityError",
    "ConfigError",
    "CostTerm",
    "CostTermConfig",
    "Coupler",
    "Coupling",
    "InputError",
    "KeepDecision",
    "KeepScore",
    "MergeWeights",
    "Pipeline",
    "PipelineConfig",
    "PluginError",
    "Realised",
    "ReducedTokens",
    "Segments",
    "StrategyConfig",
    "TemporalSegmenter",
    "TokenGroup",
    "TokenredError",
    "VisualTokens",
    "attach",
    "calibrate",
    "hookimpl",
    "load_model",
    "load_pipeline",
    "read_video",
    "registry",
]

_LAZY = {
    "attach": "tokenred.models.attach",
    "load_model": "tokenred.models.loading",
    "read_video": "tokenred.video",
}


def __getattr__(name: str) -> Any:
    """Import what needs transformers or PyAV only when it is asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tokenred' has no attribute '{name}'")
