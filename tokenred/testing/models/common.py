"""What the tiny models share: a tokenizer, a text configuration, a synthetic video."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<video>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH_SIZE = 4


@dataclass(frozen=True)
class TinyFamily:
    """How to build a tiny model of one family.

    Attributes
    ----------
    name : as in the docs
    build : ``build(seed=0, attn_implementation="sdpa")`` returns a random model in ``eval`` mode
        and a tokenizer
    frame_size : height and width of the frames that suit it
    settings : what ``prepare`` is told, as in a checkpoint's ``preprocessor_config.json``
    """

    name: str
    build: Callable[..., tuple[Any, Any]]
    frame_size: tuple[int, int]
    media: tuple[str, ...] = ("image", "video")
    views: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def inputs(
        self,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[str],
        videos: Sequence[UInt8[Tensor, "frames 3 height width"]] = (),
        images: Sequence[UInt8[Tensor, "3 height width"]] = (),
    ) -> dict[str, Tensor]:
        """Build what the model's processor would.

        Parameters
        ----------
        prompts : text with one ``<video>`` or ``<image>`` mark for each video or image, taken in
            reading order
        """
        from tokenred.models import adapter_for
        from tokenred.models.inputs.preparing import tokenise

        prepared = adapter_for(model).prepare(videos, images, settings=self.settings)
        return tokenise(tokenizer, prompts, prepared)


def text_settings(vocab_size: int, **changes: Any) -> dict[str, Any]:
    """Return settings of a decoder with grouped keys, wide enough that answers vary."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,
        **changes,
    }


def tower_settings(grid: int = 6, layers: int = 4) -> dict[str, Any]:
    """Return settings of a ViT that reads frames of ``grid`` x ``grid`` patches."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": grid * PATCH_SIZE,
        "patch_size": PATCH_SIZE,
    }


def finish(model_class: Any, config: Any, tokenizer: Any, seed: int) -> tuple[Any, Any]:
    """Draw the weights of a model; the caller's random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


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
