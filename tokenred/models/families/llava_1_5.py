"""LLaVA-1.5 of transformers, for images: CLIP tower and projector, one view, no newline."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import InputError
from tokenred.models.cues import Cue, capture_cues
from tokenred.models.families.llava import CLIP_CUT, LlavaAdapter
from tokenred.models.inputs.preparing import Prepared, resize_and_normalise
from tokenred.models.splice import Clip, ClipLayout
from tokenred.types import VisualTokens


class Llava15Adapter(LlavaAdapter):
    """Encode and splice for ``LlavaForConditionalGeneration``.

    Source
    ------
    transformers, ``models/llava/modeling_llava.py`` (written anew).
    """

    model_class: ClassVar[str] = "LlavaForConditionalGeneration"
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_sizes")
    }
    normalisation = CLIP_CUT

    def prepare(
        self,
        videos: Sequence[UInt8[Tensor, "frames 3 height width"]] = (),
        images: Sequence[UInt8[Tensor, "3 height width"]] = (),
        *,
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Cut images to the tower's square; the model reads no videos."""
        if videos:
            self.refuse_videos()
        side = self.config.vision_config.image_size
        settings = {**self.normalisation, **(settings or {})}
        pixels = [resize_and_normalise(image[None], (side, side), settings) for image in images]
        n = self.grid[0] * self.grid[1]
        pieces = {"image": [[self.token_ids["image"]] * n for _ in images]}
        return Prepared({"pixel_values": torch.cat(pixels)} if pixels else {}, pieces)

    def _encode_images(self, inputs: Mapping[str, Any], cues: Sequence[Cue]) -> list[Clip]:
        pixels = inputs["pixel_values"]
        if pixels.ndim != 4:
            raise InputError(
                f"pixel_values must be (images, 3, height, width), got shape {tuple(pixels.shape)}"
            )
        with capture_cues(self.vision, cues, pixels) as captured:
            projected = self.model.model.multi_modal_projector(self._run_tower(pixels))
        found = captured.values()
        return [
            Clip(
                VisualTokens.of(
                    features[None],
                    self.grid,
                    cues={name: value[index : index + 1] for name, value in found.items()},
                ),
                ClipLayout("image", 1, self.grid),
            )
            for index, features in enumerate(projected)
        ]
