"""LLaVA-OneVision of transformers: tower, projector, bilinear pooling, one newline a video."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenred.models.families.llava import LlavaAdapter
from tokenred.models.splice import Newlines


class LlavaOnevisionAdapter(LlavaAdapter):
    """Encode and splice for ``LlavaOnevisionForConditionalGeneration``.

    Pipelines get videos as the projector gives them, 27x27 a frame, and pool to 14x14. Images are
    not pooled.

    Source
    ------
    transformers, ``models/llava_onevision/modeling_llava_onevision.py`` (written anew).
    """

    model_class: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_sizes", "batch_num_images"),
        "video": ("pixel_values_videos", "image_sizes_videos"),
    }
    native_pool: ClassVar[str] = "bilinear"
    video_newlines: ClassVar[Newlines] = "end"

    def newline(self) -> Float[Tensor, "dim"]:
        """Return the newline token, which also closes every video."""
        return self.model.model.image_newline

    def _pack_options(self) -> dict[str, Any]:
        return {"vision_aspect_ratio": self.config.vision_aspect_ratio}
