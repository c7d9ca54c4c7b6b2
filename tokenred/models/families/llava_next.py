"""LLaVA-NeXT of transformers, for images: CLIP tower, tiles, a newline after every row."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenred.models.families.llava import CLIP_CUT, LlavaAdapter


class LlavaNextAdapter(LlavaAdapter):
    """Encode and splice for ``LlavaNextForConditionalGeneration``.

    Source
    ------
    transformers, ``models/llava_next/modeling_llava_next.py`` (written anew).
    """

    model_class: ClassVar[str] = "LlavaNextForConditionalGeneration"
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_sizes")
    }
    normalisation = CLIP_CUT

    def newline(self) -> Float[Tensor, "dim"]:
        """Return the newline token."""
        return self.model.model.image_newline

    def _pack_options(self) -> dict[str, Any]:
        return {"vision_feature_select_strategy": self.config.vision_feature_select_strategy}
