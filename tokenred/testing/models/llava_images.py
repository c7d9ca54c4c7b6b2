"""Tiny random LLaVAs that read images only: LLaVA-1.5 and LLaVA-NeXT."""

from typing import Any

from tokenred.testing.models.common import (
    PATCH_SIZE,
    TinyFamily,
    byte_tokenizer,
    finish,
    text_settings,
    tower_settings,
)


def tiny_llava_1_5(*, seed: int = 0, attn_implementation: str = "sdpa") -> tuple[Any, Any]:
    """Build a random ``LlavaForConditionalGeneration`` and its tokenizer."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    return _build(LlavaForConditionalGeneration, LlavaConfig, seed, attn_implementation)


def tiny_llava_next(*, seed: int = 0, attn_implementation: str = "sdpa") -> tuple[Any, Any]:
    """Build a random ``LlavaNextForConditionalGeneration`` and its tokenizer."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    side = 6 * PATCH_SIZE
    pinpoints = {"image_grid_pinpoints": [[side, 2 * side], [2 * side, side]]}
    return _build(
        LlavaNextForConditionalGeneration, LlavaNextConfig, seed, attn_implementation, **pinpoints
    )


def _build(
    model_class: Any, config_class: Any, seed: int, attn_implementation: str, **more: Any
) -> tuple[Any, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig

    tokenizer = byte_tokenizer()
    vision = CLIPVisionConfig(**tower_settings())
    config = config_class(
        vision_config=vision.to_dict(),
        text_config=LlamaConfig(**text_settings(len(tokenizer))).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        attn_implementation=attn_implementation,
        **more,
    )
    return finish(model_class, config, tokenizer, seed)


LLAVA_1_5 = TinyFamily("LLaVA-1.5", tiny_llava_1_5, (24, 24), ("image",))
LLAVA_NEXT = TinyFamily("LLaVA-NeXT", tiny_llava_next, (24, 40), ("image",), views=2)
