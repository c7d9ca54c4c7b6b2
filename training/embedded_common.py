"""Configuration, logging and schedules shared by the phases of the embedded-model training."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from tokenred.embedded.drawing import FRAME_SIZE, GRID_SIZE, PATCH_SIZE
from tokenred.embedded.questions import VOCABULARY
from tokenred.embedded.scenes import NUM_FRAMES

VISION_WIDTH = 96
VISION_LAYERS = 4
VISION_HEADS = 4
LANGUAGE_WIDTH = 128
LANGUAGE_LAYERS = 4
WORD_SCALE = 10.0
"""Factor on the initial word embeddings, undone in the last norm.

At their usual size they vanish next to the first layer's attention output, and the model does
not learn to tell question words apart.
"""


def build_model() -> LlavaOnevisionForConditionalGeneration:
    """Randomly initialised embedded model (about 1.2 M parameters)."""
    vision = SiglipVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=3 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=FRAME_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    language = Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=LANGUAGE_WIDTH,
        intermediate_size=3 * LANGUAGE_WIDTH,
        num_hidden_layers=LANGUAGE_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=VOCABULARY.index("<pad>"),
        bos_token_id=None,
        eos_token_id=VOCABULARY.index("<eos>"),
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=language,
        image_token_id=VOCABULARY.index("<image>"),
        video_token_id=VOCABULARY.index("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[FRAME_SIZE, FRAME_SIZE]],
        tie_word_embeddings=True,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    with torch.no_grad():
        table = model.model.vision_tower.embeddings.position_embedding.weight
        table.copy_(sinusoidal_grid(table.shape[1]))
        model.get_input_embeddings().weight.mul_(WORD_SCALE)
        model.model.language_model.norm.weight.div_(WORD_SCALE)
    return model


def sinusoidal_grid(width: int) -> torch.Tensor:
    """Two-dimensional sine/cosine table used to initialise the position embedding.

    Returns
    -------
    torch.Tensor, shape (GRID_SIZE**2, width)
    """
    quarter = width // 4
    frequency = torch.pi / 2 ** torch.linspace(0.5, 5, quarter)
    axis = torch.arange(GRID_SIZE)[:, None] * frequency
    line = torch.cat([axis.sin(), axis.cos()], dim=1)  # (GRID_SIZE, width / 2)
    rows = line[:, None].expand(-1, GRID_SIZE, -1)
    columns = line[None].expand(GRID_SIZE, -1, -1)
    return 0.5 * torch.cat([rows, columns], dim=-1).reshape(GRID_SIZE**2, width)


class AttentionProbe:
    """Records queries and keys of vision layers, to compute the attention tokens receive.

    Parameters
    ----------
    tower : SiglipVisionModel
        The vision tower.
    layers : sequence of int
        The layers to watch.
    """

    def __init__(self, tower: nn.Module, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self._store: dict[tuple[int, str], torch.Tensor] = {}
        self._heads = tower.config.num_attention_heads
        self._handles = []
        for layer in layers:
            attention = tower.encoder.layers[layer].self_attn
            for name in ("q_proj", "k_proj"):
                hook = self._make_hook(layer, name)
                self._handles.append(getattr(attention, name).register_forward_hook(hook))

    def _make_hook(self, layer: int, name: str):
        def hook(_module, _inputs, output):
            self._store[layer, name] = output

        return hook

    def received(self, layer: int, stride: int = 1) -> torch.Tensor:
        """Mean over heads and every ``stride``-th query of the attention, shape (frames, tokens).

        Rows sum to 1.
        """
        query, key = (
            self._store[layer, name].unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj")
        )
        scores = query[:, :, ::stride] @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        return scores.float().softmax(-1).mean((1, 2))

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def learning_rate(step: int, total: int, peak: float, warmup: int = 150) -> float:
    """Linear warm-up followed by a cosine decay to 2 % of ``peak``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimizer(modules: list[nn.Module], weight_decay: float = 0.02) -> torch.optim.AdamW:
    """AdamW over all trainable parameters; vectors are not decayed."""
    unique = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    matrices = [p for p in unique.values() if p.ndim > 1]
    vectors = [p for p in unique.values() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))


def optimizer_step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float, clip: float = 1.0
) -> None:
    """Back-propagate, clip the gradient norm and step with learning rate ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


class JsonLog:
    """Appends one JSON object per line to a file and echoes it to standard output."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = time.monotonic()

    def write(self, **fields: object) -> None:
        """Write one line; floats are rounded to four digits."""
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}
        line = json.dumps({"seconds": round(time.monotonic() - self._start), **rounded})
        with self._path.open("a") as stream:
            stream.write(line + "\n")
        print(line, flush=True)


def save_state(path: Path, **state: object) -> None:
    """Write a checkpoint atomically."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


VIDEO_TOKENS = NUM_FRAMES * math.ceil(GRID_SIZE / 2) ** 2 + 1
"""Placeholders of one video: pooled tokens of all frames and one newline."""
