"""Tiny random models of real transformers classes, and their inputs: offline, no processor.

For tests of adapters, the author's own included. The weights mean nothing; the code path is the one
that real checkpoints take.
"""

from tokenred.testing.models.common import (
    PATCH_SIZE,
    SPECIAL_TOKENS,
    TinyFamily,
    byte_tokenizer,
    pixel_values,
    synthetic_video,
)
from tokenred.testing.models.llava_next_video import LLAVA_NEXT_VIDEO, tiny_llava_next_video
from tokenred.testing.models.llava_onevision import (
    LLAVA_ONEVISION,
    llava_onevision_inputs,
    tiny_llava_onevision,
)

FAMILIES = {family.name: family for family in (LLAVA_ONEVISION, LLAVA_NEXT_VIDEO)}
"""Every family that tokenred serves, by name."""

__all__ = [
    "FAMILIES",
    "PATCH_SIZE",
    "SPECIAL_TOKENS",
    "TinyFamily",
    "byte_tokenizer",
    "llava_onevision_inputs",
    "pixel_values",
    "synthetic_video",
    "tiny_llava_next_video",
    "tiny_llava_onevision",
]
