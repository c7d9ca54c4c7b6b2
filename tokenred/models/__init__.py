"""Model families: encode videos, splice reduced ones, and run models on them."""

from tokenred.models.attach import Session, attach
from tokenred.models.base import (
    ModelAdapter,
    ReducingPipeline,
    adapter_for,
    reduce_tokens,
    reduce_video,
)

__all__ = [
    "ModelAdapter",
    "ReducingPipeline",
    "Session",
    "adapter_for",
    "attach",
    "reduce_tokens",
    "reduce_video",
]
