"""Model families: encode images and videos, splice reduced ones, and run models on them."""

from tokenred.models.adapter import ModelAdapter, adapter_for
from tokenred.models.attach import Attachment, Observer, ReducingPipeline, attach, reduce_clip
from tokenred.models.session import ModelSession
from tokenred.models.splice import Clip, ClipLayout

__all__ = [
    "Attachment",
    "Clip",
    "ClipLayout",
    "ModelAdapter",
    "ModelSession",
    "Observer",
    "ReducingPipeline",
    "adapter_for",
    "attach",
    "reduce_clip",
]
