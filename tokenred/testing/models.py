"""Tiny random models of real transformers classes, and their inputs: offline, no processor.

For tests of adapters, the author's own included. The weights mean nothing; the code path is the one
that real checkpoints take.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import InputError

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
PATCH_SIZE = 4


def byte_tokenizer() -> Any:
    """Return a byte-level tokenizer: 256 bytes and ``SPECIAL_TOKENS``, padding on the left."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
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
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=side,
        patch_size=PATCH_SIZE,
        vision_use_head=pooling_head,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=[[side, side]],
        attn_implementation=attn_implementation,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaOnevisionForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def synthetic_video(
    n_frames: int = 4, size: int = 24, seed: int = 0
) -> UInt8[Tensor, "frames 3 size size"]:
    """Return a white square that moves over a gradient with noise, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.arange(size) * 255 // size
    frames = torch.zeros(n_frames, 3, size, size)
    frames[:, 0], frames[:, 1] = ramp, ramp[:, None]
    edge = max(size // 4, 1)
    for index, frame in enumerate(frames):
        left, top = (7 * index + seed) % (size - edge), (5 * index) % (size - edge)
        frame[:, top : top + edge, left : left + edge] = 255
    noise = torch.randint(-40, 41, frames.shape, generator=generator)
    return (frames + noise).clamp(0, 255).to(torch.uint8)


def pixel_values(frames: UInt8[Tensor, "*batch 3 h w"]) -> Float[Tensor, "*batch 3 h w"]:
    """Scale pixels as SigLIP reads them, to [-1, 1]."""
    return frames.float() / 127.5 - 1


def llava_onevision_inputs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    videos: Sequence[UInt8[Tensor, "frames 3 h w"]] = (),
    images: Sequence[UInt8[Tensor, "3 h w"]] = (),
) -> dict[str, Tensor]:
    """Build what the model's processor would: ids padded on the left, mask, pixel values.

    Parameters
    ----------
    prompts : text with one ``<video>`` or ``<image>`` mark for each video or image, taken in
        reading order
    videos : all of the same length, frames of the size that the model reads
    images : of the size that the model reads

    Raises
    ------
    InputError
        If marks and media do not match in number.
    """
    side = model.config.vision_config.image_size // model.config.vision_config.patch_size
    pooled = -(-side // 2)
    # An image is read whole and once more as its only tile, with a newline after each row.
    lengths = {"<image>": side * side + side * (side + 1), "<video>": 0}
    for mark, media in (("<video>", videos), ("<image>", images)):
        marks = sum(prompt.count(mark) for prompt in prompts)
        if marks != len(media):
            raise InputError(f"the prompts hold {marks} {mark} marks for {len(media)} of them")
    if videos:
        lengths["<video>"] = len(videos[0]) * pooled * pooled + 1
    texts = []
    for prompt in prompts:
        for mark, length in lengths.items():
            prompt = prompt.replace(mark, mark * length)
        texts.append(prompt)
    inputs = dict(tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))
    if videos:
        inputs["pixel_values_videos"] = pixel_values(torch.stack(list(videos)))
    if images:
        pixels = pixel_values(torch.stack(list(images)))
        inputs["pixel_values"] = torch.stack((pixels, pixels), dim=1)
        inputs["image_sizes"] = torch.tensor([image.shape[-2:] for image in images])
    return inputs
