"""A tiny random LLaVA-Video."""

from typing import Any

from tokenred.testing.models.common import (
    PATCH_SIZE,
    TinyFamily,
    byte_tokenizer,
    finish,
    text_settings,
    tower_settings,
)


def tiny_llava_video(
    *,
    grid: int = 7,
    vision_layers: int = 4,
    pool: str = "average",
    newlines: str = "grid",
    seed: int = 0,
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Build a random ``LlavaVideoForConditionalGeneration`` and its tokenizer.

    Parameters
    ----------
    grid : tokens along each side of a frame before pooling; frames are ``grid * PATCH_SIZE`` pixels
    pool, newlines : ``mm_spatial_pool_mode`` and ``mm_newline_position`` of the config
    """
    from transformers import Qwen2Config, SiglipVisionConfig

    from tokenred_llava.video_model import (
        LlavaVideoConfig,
        LlavaVideoForConditionalGeneration,
    )

    tokenizer = byte_tokenizer()
    image_id, video_id = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    side = grid * PATCH_SIZE
    vision = SiglipVisionConfig(**tower_settings(grid, vision_layers), vision_use_head=False)
    config = LlavaVideoConfig(
        vision_config=vision.to_dict(),
        text_config=Qwen2Config(**text_settings(len(tokenizer))).to_dict(),
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=[[side, side]],
        attn_implementation=attn_implementation,
        mm_spatial_pool_mode=pool,
        mm_newline_position=newlines,
    )
    return finish(LlavaVideoForConditionalGeneration, config, tokenizer, seed)


LLAVA_VIDEO = TinyFamily("LLaVA-Video", tiny_llava_video, (28, 28))
