"""Stages that act inside the LLM: between its layers while it reads, on its cache while it writes.

They are carried by the pipeline and run by whatever runs the model (``tokenred.models``).
"""

from pydantic import Field

from tokenred.errors import ConfigError
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.pipeline.flow import Flow
from tokenred.pipeline.stage import Stage, StageConfig
from tokenred.slots import Slot, build


class LlmStageConfig(StageConfig):
    """Settings of a stage between the layers of the LLM."""

    reducer: Slot[LayerReducer] = Field(description="what drops or merges tokens, and where")


class LlmStage(Stage):
    """Drop or merge tokens between the layers of the LLM, while it reads the prompt."""

    config: LlmStageConfig

    def __init__(self, config: LlmStageConfig) -> None:
        super().__init__(config)
        try:
            self.reducer = build(LayerReducer, config.reducer)
        except ConfigError as error:
            raise error.below(["reducer"]) from None

    @property
    def inside(self) -> LayerReducer:
        """The reducer."""
        return self.reducer

    def run(self, flow: Flow) -> None:
        """Do nothing before the LLM."""


class CacheStageConfig(StageConfig):
    """Settings of a stage on the cache of the LLM."""

    pruner: Slot[CachePruner] = Field(description="which cached tokens later layers look at")


class CacheStage(Stage):
    """Choose which cached tokens later layers look at, while the LLM writes."""

    config: CacheStageConfig

    def __init__(self, config: CacheStageConfig) -> None:
        super().__init__(config)
        try:
            self.pruner = build(CachePruner, config.pruner)
        except ConfigError as error:
            raise error.below(["pruner"]) from None

    @property
    def inside(self) -> CachePruner:
        """The pruner."""
        return self.pruner

    def run(self, flow: Flow) -> None:
        """Do nothing before the LLM."""
