"""Qwen2.5-VL of transformers: windows in the tower, seconds on the axis of time."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.models.families.qwen_vl import QwenAdapter


class Qwen2_5VLAdapter(QwenAdapter):
    """Encode and splice for ``Qwen2_5_VLForConditionalGeneration``.

    Inside the tower tokens stand window by window; what is captured there is put back in order.

    Source
    ------
    transformers, ``models/qwen2_5_vl/modeling_qwen2_5_vl.py`` (written anew).
    """

    model_class: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"

    def time_inputs(self, frame_times: Sequence[Float[Tensor, "_"]]) -> dict[str, Tensor]:
        """Return the seconds from one group of frames to the next, one number a video."""
        seconds = []
        for times in frame_times:
            steps = max(len(times) - 1, 1)
            seconds.append(float(times[-1] - times[0]) / steps * self.frame_group)
        return {"second_per_grid_ts": torch.tensor(seconds)}

    def token_order(self, grids: Int[Tensor, "clips 3"]) -> Int[Tensor, "tokens"]:
        """Return the order of tokens inside the tower, which is window by window."""
        from transformers.vision_utils import get_vision_window_index

        index, _ = get_vision_window_index(
            grids,
            spatial_merge_size=self.merge,
            window_size=self.config.vision_config.window_size,
            patch_size=self.config.vision_config.patch_size,
        )
        return index.argsort()
