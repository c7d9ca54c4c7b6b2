"""A tiny random LLaVA-OneVision."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from tokenred.testing.models.common import (
    PATCH_SIZE,
    TinyFamily,
    byte_tokenizer,
    finish,
    text_settings,
    tower_settings,
)


def tiny_llava_onevision(
    *,
    grid: int = 6,
    vision_layers: int = 4,
    pooling_head: bool = False,
    seed: int = 0,
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Build a random ``LlavaOnevisionForConditionalGeneration`` and its tokenizer.

    Weights are drawn wide enough that the answer depends visibly on the video. The caller's random
    state is left alone.

    Parameters
    ----------
    grid : tokens along each side of a frame before pooling; frames are ``grid * PATCH_SIZE`` pixels
    pooling_head : whether the SigLIP tower has one (cue ``pooler``)

    Returns
    -------
    The model in ``eval`` mode (about 0.2 M parameters, float32, CPU) and ``byte_tokenizer()``.
    """
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer()
    image_id, video_id = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    side = grid * PATCH_SIZE
    vision = SiglipVisionConfig(**tower_settings(grid, vision_layers), vision_use_head=pooling_head)
    text = Qwen2Config(**text_settings(len(tokenizer)))
    config = LlavaOnevisionConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=[[side, side]],
        attn_implementation=attn_implementation,
    )
    return finish(LlavaOnevisionForConditionalGeneration, config, tokenizer, seed)


def llava_onevision_inputs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    videos: Sequence[UInt8[Tensor, "frames 3 h w"]] = (),
    images: Sequence[UInt8[Tensor, "3 h w"]] = (),
) -> dict[str, Tensor]:
    """Build what the model's processor would; see ``TinyFamily.inputs``."""
    return LLAVA_ONEVISION.inputs(model, tokenizer, prompts, videos, images)


LLAVA_ONEVISION = TinyFamily("LLaVA-OneVision", tiny_llava_onevision, (24, 24))
