"""A tiny random LLaVA-NeXT-Video."""

from typing import Any

from tokenred.testing.models.common import (
    PATCH_SIZE,
    TinyFamily,
    byte_tokenizer,
    finish,
    text_settings,
    tower_settings,
)


def tiny_llava_next_video(
    *,
    grid: int = 6,
    vision_layers: int = 4,
    seed: int = 0,
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Build a random ``LlavaNextVideoForConditionalGeneration`` and its tokenizer.

    Parameters
    ----------
    grid : tokens along each side of a frame before pooling; frames are ``grid * PATCH_SIZE`` pixels
    """
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
    )

    tokenizer = byte_tokenizer()
    image_id, video_id = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    side = grid * PATCH_SIZE
    vision = CLIPVisionConfig(**tower_settings(grid, vision_layers))
    config = LlavaNextVideoConfig(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**text_settings(len(tokenizer))).to_dict(),
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=[[side, side]],
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        attn_implementation=attn_implementation,
    )
    return finish(LlavaNextVideoForConditionalGeneration, config, tokenizer, seed)


LLAVA_NEXT_VIDEO = TinyFamily("LLaVA-NeXT-Video", tiny_llava_next_video, (24, 24))
