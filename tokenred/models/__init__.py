"""Model families: encode images and videos, splice reduced ones, and run models on them."""

from tokenred.models.adapter import ModelAdapter, ReducingPipeline, adapter_for, reduce_clip
from tokenred.models.attach import Session, attach
from tokenred.models.splice import Clip, ClipLayout

__all__ = [
    "Clip",
    "ClipLayout",
    "ModelAdapter",
    "ReducingPipeline",
    "Session",
    "adapter_for",
    "attach",
    "reduce_clip",
]
