"""Qwen3-VL of transformers: DeepStack features, and time stamps in the text."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import InputError
from tokenred.models.families.llava import SIGLIP
from tokenred.models.families.qwen_vl import PixelBounds, QwenAdapter
from tokenred.models.splice import Clip, ClipLayout, Spliced, VisualPart
from tokenred.types import ReducedTokens

FRAMES_PER_SECOND = 2.0
"""How often the checkpoints' own processor takes a frame."""


class Qwen3VLAdapter(QwenAdapter):
    """Encode and splice for ``Qwen3VLForConditionalGeneration``, and its mixture of experts.

    DeepStack: chosen layers of the tower have features for every token, which the LLM adds to its
    hidden states after its first layers. They go through the same linear map as their tokens: a
    merged token gets the merged features. A video's placeholders stand in one run a time stamp.

    Source
    ------
    transformers, ``models/qwen3_vl/modeling_qwen3_vl.py`` (written anew).
    """

    model_class: ClassVar[str] = "Qwen3VLForConditionalGeneration"
    normalisation: ClassVar[Mapping[str, Sequence[float]]] = SIGLIP
    bounds: ClassVar[Mapping[str, PixelBounds]] = {
        "image": PixelBounds(64 * 32 * 32, 16384 * 32 * 32),
        "video": PixelBounds(4 * 32 * 32, 24576 * 32 * 32, whole_video=True),
    }

    def pieces(
        self, layout: ClipLayout, frame_times: Float[Tensor, "frames"] | None
    ) -> list[int | str]:
        """Return the placeholders of a clip in the prompt, with a time stamp before every frame."""
        if layout.kind == "image":
            return super().pieces(layout, None)
        if frame_times is None:
            frame_times = torch.arange(layout.frames * self.frame_group) / FRAMES_PER_SECOND
        run = super().pieces(ClipLayout(layout.kind, 1, layout.grid), None)
        times = self.group_times(frame_times).tolist()
        return [piece for time in times for piece in (f"<{time:.1f} seconds>", *run)]

    def deepstack_features(self, output: Any) -> Float[Tensor, "levels tokens dim"]:
        """Return the DeepStack features, if the tower has any."""
        return torch.stack(list(output.deepstack_features))

    def part(self, clip: Clip, reduced: ReducedTokens) -> VisualPart:
        """Return the tokens of a reduced clip, with their DeepStack features."""
        if clip.deepstack_features is None:
            raise InputError("Qwen3-VL needs the DeepStack features of the clip")
        return super().part(clip, reduced)

    @contextmanager
    def during_call(self, spliced: Spliced) -> Iterator[None]:
        """Pass the DeepStack features to the LLM when it reads the prompt."""
        of_parts = [part.deepstack_features for part in spliced.parts]
        features = torch.cat([each for each in of_parts if each is not None], dim=1)
        features = features[:, spliced.layout.visual_order.to(features.device)]
        give = partial(_give_deepstack, spliced.layout.visual, features)
        hook = self.text_model.register_forward_pre_hook(give, with_kwargs=True)
        try:
            with super().during_call(spliced):
                yield
        finally:
            hook.remove()


def _give_deepstack(
    visual: Tensor, features: Tensor, module: Any, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """Add the DeepStack features of the visual tokens to a call of the LLM."""
    hidden, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
    start = 0 if cache is None else int(cache.get_seq_length())
    window = visual[:, start : start + hidden.shape[1]]
    if not bool(window.any()):
        return None
    read = torch.zeros_like(visual)
    read[:, start : start + hidden.shape[1]] = window
    copies = hidden.shape[0] // visual.shape[0]
    mask = torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    mask[:, : window.shape[1]] = window.repeat_interleave(copies, 0).to(mask.device)
    rows = features[:, read[visual].to(features.device)].split(read.sum(1).tolist(), dim=1)
    repeated = torch.cat([row for row in rows for _ in range(copies)], dim=1)
    embeds = list(repeated.to(hidden.device))
    return args, {**kwargs, "visual_pos_masks": mask, "deepstack_visual_embeds": embeds}
