"""LLaVA-NeXT-Video of transformers: CLIP tower, pooling in front of the projector, no newline."""

from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.pooling import pool_tokens, pooled_grid
from tokenred.models.cues.names import POOLER, TOWER
from tokenred.models.families.llava import CLIP_CUT, LlavaAdapter


class LlavaNextVideoAdapter(LlavaAdapter):
    """Encode and splice for ``LlavaNextVideoForConditionalGeneration``.

    The model pools the tower's tokens before it projects them, and the projector is not linear. So
    a pipeline takes over behind both, on the LLM's grid, and cues are averaged to that grid.

    Source
    ------
    transformers, ``models/llava_next_video/modeling_llava_next_video.py`` (written anew).
    """

    model_class: ClassVar[str] = "LlavaNextVideoForConditionalGeneration"
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_sizes"),
        "video": ("pixel_values_videos",),
    }
    normalisation: ClassVar[Mapping[str, Any]] = CLIP_CUT

    @property
    def video_grid(self) -> tuple[int, int]:
        """Grid of a video's frames when a pipeline takes over: the LLM's."""
        return pooled_grid(self.grid, "average", self.config.spatial_pool_stride)

    def _project_video(self, hidden: Tensor) -> Tensor:
        return self.model.model.multi_modal_projector(self.model.model.vision_resampler(hidden))

    def _video_cue(self, name: str, cue: Tensor) -> Tensor:
        """Average a cue of each token as the model pools; ``tower`` is pooled already."""
        if name in (POOLER, TOWER):
            return cue
        stride = self.config.spatial_pool_stride
        wide = cue if cue.ndim == 3 else cue[..., None]
        pooled = pool_tokens(wide, self.grid, "average", stride)
        return pooled if cue.ndim == 3 else pooled[..., 0]

    def newline(self) -> Float[Tensor, "dim"]:
        """Return the newline token, which images have and videos have not."""
        return self.model.model.image_newline

    def _pack_options(self) -> dict[str, Any]:
        return {"vision_feature_select_strategy": self.config.vision_feature_select_strategy}
