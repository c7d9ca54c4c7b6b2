"""Tiny random models of Qwen's vision families."""

from collections.abc import Sequence
from typing import Any

from tokenred.testing.models.common import (
    PATCH_SIZE,
    TinyFamily,
    byte_tokenizer,
    finish,
    text_settings,
)

MERGE = 2
FRAME_GROUP = 2
_PIXELS = {
    "min_pixels": 4 * (PATCH_SIZE * MERGE) ** 2,
    "max_pixels": 512 * (PATCH_SIZE * MERGE) ** 2,
}


def tiny_qwen2_vl(
    *, vision_layers: int = 4, seed: int = 0, attn_implementation: str = "sdpa"
) -> tuple[Any, Any]:
    """Build a random ``Qwen2VLForConditionalGeneration`` and its tokenizer.

    A token stands for 2x2 patches of 4x4 pixels in two frames.
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    tokenizer = byte_tokenizer()
    vision = {
        "depth": vision_layers,
        "embed_dim": 32,
        "hidden_size": 64,
        "mlp_ratio": 2,
        "num_heads": 2,
        **_patches(),
    }
    config = Qwen2VLConfig(
        text_config=_text(tokenizer),
        vision_config=vision,
        attn_implementation=attn_implementation,
        **_token_ids(tokenizer),
    )
    return finish(Qwen2VLForConditionalGeneration, config, tokenizer, seed)


def tiny_qwen2_5_vl(
    *,
    vision_layers: int = 4,
    window: int = 16,
    full_layers: tuple[int, ...] = (1, 3),
    seed: int = 0,
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Build a random ``Qwen2_5_VLForConditionalGeneration`` and its tokenizer.

    Parameters
    ----------
    window : pixels along each side of a window; a token is 8 pixels wide
    full_layers : layers of the tower without windows
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = byte_tokenizer()
    vision = {
        "depth": vision_layers,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "window_size": window,
        "fullatt_block_indexes": list(full_layers),
        "tokens_per_second": 2,
        **_patches(),
    }
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer),
        vision_config=vision,
        attn_implementation=attn_implementation,
        **_token_ids(tokenizer),
    )
    return finish(Qwen2_5_VLForConditionalGeneration, config, tokenizer, seed)


def tiny_qwen3_vl(
    *,
    vision_layers: int = 4,
    deep_layers: tuple[int, ...] = (0, 2),
    seed: int = 0,
    attn_implementation: str = "sdpa",
) -> tuple[Any, Any]:
    """Build a random ``Qwen3VLForConditionalGeneration`` and its tokenizer.

    Parameters
    ----------
    deep_layers : layers of the tower whose features go to the LLM's first layers
    """
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = byte_tokenizer()
    config = Qwen3VLConfig(
        text_config={**_text(tokenizer, mrope_interleaved=True), "head_dim": 16},
        vision_config=_deep_tower(vision_layers, deep_layers),
        attn_implementation=attn_implementation,
        **_token_ids(tokenizer),
    )
    return finish(Qwen3VLForConditionalGeneration, config, tokenizer, seed)


def tiny_qwen3_vl_moe(
    *, vision_layers: int = 4, seed: int = 0, attn_implementation: str = "sdpa"
) -> tuple[Any, Any]:
    """Build a random ``Qwen3VLMoeForConditionalGeneration`` and its tokenizer."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    tokenizer = byte_tokenizer()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = Qwen3VLMoeConfig(
        text_config={**_text(tokenizer, mrope_interleaved=True), "head_dim": 16, **experts},
        vision_config=_deep_tower(vision_layers, (0, 2)),
        attn_implementation=attn_implementation,
        experts_implementation="eager",  # torch's grouped product knows no double precision
        **_token_ids(tokenizer),
    )
    return finish(Qwen3VLMoeForConditionalGeneration, config, tokenizer, seed)


def _deep_tower(n_layers: int, deep_layers: Sequence[int]) -> dict[str, Any]:
    return {
        "depth": n_layers,
        "hidden_size": 32,
        "out_hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": list(deep_layers),
        **_patches(),
    }


def _patches() -> dict[str, Any]:
    return {
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAME_GROUP,
        "in_channels": 3,
        "initializer_range": 0.2,
    }


def _text(tokenizer: Any, **rope: Any) -> dict[str, Any]:
    parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], **rope}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    return text_settings(len(tokenizer), rope_parameters=parameters, **ends)


def _token_ids(tokenizer: Any) -> dict[str, int]:
    marks = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    marks |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()
    }


QWEN2_VL = TinyFamily("Qwen2-VL", tiny_qwen2_vl, (24, 32), settings=_PIXELS)
QWEN2_5_VL = TinyFamily("Qwen2.5-VL", tiny_qwen2_5_vl, (24, 32), settings=_PIXELS)
QWEN3_VL = TinyFamily("Qwen3-VL", tiny_qwen3_vl, (24, 32), settings=_PIXELS)
QWEN3_VL_MOE = TinyFamily("Qwen3-VL-MoE", tiny_qwen3_vl_moe, (24, 32), settings=_PIXELS)
