"""Stages that act inside the LLM: between its layers while it reads, on its cache while it writes.

They are carried by the pipeline and run by whatever runs the model (``tokenred.models``).
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from tokenred.config import FrozenModel
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.slots import Slot


class LlmStageConfig(FrozenModel):
    """Settings of a stage between the layers of the LLM."""

    kind: Literal["llm"] = "llm"
    reducer: Slot[LayerReducer] = Field(description="what drops or merges tokens, and where")


class CacheStageConfig(FrozenModel):
    """Settings of a stage on the cache of the LLM."""

    kind: Literal["cache"] = "cache"
    pruner: Slot[CachePruner] = Field(description="which cached tokens later layers look at")


@dataclass(frozen=True)
class InsideLlm:
    """What a pipeline does inside the LLM, by the labels of its stages; false if nothing."""

    reducers: tuple[tuple[str, LayerReducer], ...] = ()
    pruners: tuple[tuple[str, CachePruner], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reducers or self.pruners)
