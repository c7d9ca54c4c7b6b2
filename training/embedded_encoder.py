"""Encoder phase: the vision tower learns dense labels on crowded single frames."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from embedded_common import (
    VISION_LAYERS,
    VISION_WIDTH,
    AttentionProbe,
    JsonLog,
    build_model,
    learning_rate,
    make_optimizer,
    optimizer_step,
    save_state,
)
from torch import nn
from torch.nn.functional import cross_entropy

from tokenred.embedded.drawing import (
    COLORS,
    FRAME_SIZE,
    GLYPH_SIZE,
    GRID_SIZE,
    PATCH_SIZE,
    digit_classes,
    digit_instances,
    draw_background,
    draw_digit,
    draw_variant,
)
from tokenred.embedded.preprocessing import to_pixel_values

NUM_PHOTOS = 2
ATTENTION_LAYERS = (0, 1, 2)
"""Layers whose received attention is drawn to object patches (layer 3 is left free)."""
ATTENTION_WEIGHT = 0.05


@dataclass
class DenseBatch:
    """Crowded frames and their patch labels.

    Attributes
    ----------
    pixels : torch.Tensor of float32, shape (B, 3, FRAME_SIZE, FRAME_SIZE)
    digit, color : torch.Tensor of int64, shape (B, GRID_SIZE**2)
        Class per patch, -1 on the background.
    photo : torch.Tensor of int64, shape (B,)
    """

    pixels: torch.Tensor
    digit: torch.Tensor
    color: torch.Tensor
    photo: torch.Tensor


class DenseHeads(nn.Module):
    """Linear heads on the patch features; thrown away after the phase."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "object": 2,
            "digit": 10,
            "color": len(COLORS),
            "photo": NUM_PHOTOS,
            "row": GRID_SIZE,
            "column": GRID_SIZE,
        }
        self.heads = nn.ModuleDict({k: nn.Linear(VISION_WIDTH, n) for k, n in sizes.items()})

    def forward(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits per head, each of shape (B, tokens, classes)."""
        return {name: head(features).float() for name, head in self.heads.items()}


def crowded_batch(rng: np.random.Generator, split: str, size: int) -> DenseBatch:
    """Draw ``size`` frames with one to eight digits each."""
    frames = np.empty((size, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.float32)
    labels = np.full((2, size, GRID_SIZE, GRID_SIZE), -1, dtype=np.int64)
    photos = rng.integers(NUM_PHOTOS, size=size)
    pool, classes, names = digit_instances(split), digit_classes(), list(COLORS)
    side = GLYPH_SIZE // PATCH_SIZE
    for number in range(size):
        frames[number] = draw_background(rng, split, int(photos[number]), 1)[0]
        taken = np.zeros((GRID_SIZE, GRID_SIZE), dtype=bool)
        for row, column in rng.integers(GRID_SIZE - side + 1, size=(rng.integers(1, 9), 2)):
            cell = np.s_[row : row + side, column : column + side]
            if taken[cell].any():
                continue
            taken[cell] = True
            instance, color = int(rng.choice(pool)), int(rng.integers(len(names)))
            corner = (int(row) * PATCH_SIZE, int(column) * PATCH_SIZE)
            variant = draw_variant(rng, split)
            draw_digit(frames[number], instance, names[color], corner, variant)
            labels[0, number][cell] = classes[instance]
            labels[1, number][cell] = color
    pixels = to_pixel_values(np.clip(np.rint(frames), 0, 255).astype(np.uint8))
    digit, color = torch.from_numpy(labels).flatten(2)
    return DenseBatch(pixels, digit, color, torch.from_numpy(photos))


def dense_losses(logits: dict[str, torch.Tensor], batch: DenseBatch) -> dict[str, torch.Tensor]:
    """Cross-entropy per head; digit and colour only on object patches."""
    shown = batch.digit >= 0
    count = len(batch.pixels)
    grid = torch.arange(GRID_SIZE**2).expand(count, -1)
    targets = {
        "object": shown.long(),
        "photo": batch.photo[:, None].expand(-1, GRID_SIZE**2),
        "row": grid // GRID_SIZE,
        "column": grid % GRID_SIZE,
    }
    losses = {k: cross_entropy(logits[k].flatten(0, 1), v.flatten()) for k, v in targets.items()}
    losses["digit"] = cross_entropy(logits["digit"][shown], batch.digit[shown])
    losses["color"] = cross_entropy(logits["color"][shown], batch.color[shown])
    return losses


def attention_loss(probe: AttentionProbe, shown: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between received attention and a uniform share of the object patches.

    Parameters
    ----------
    probe : AttentionProbe
        Recorder after a forward pass.
    shown : torch.Tensor of bool, shape (B, tokens)
        Object patches; every frame has at least one.
    """
    share = shown.float() / shown.sum(1, keepdim=True)
    losses = [-(share * probe.received(k, stride=5).clamp_min(1e-6).log()).sum(1).mean()
              for k in ATTENTION_LAYERS]  # fmt: skip
    return torch.stack(losses).mean()


@torch.no_grad()
def evaluate_encoder(tower: nn.Module, heads: DenseHeads, batches: int = 8) -> dict[str, float]:
    """Patch accuracies and attention lift on held-out digits and regions.

    The lift of a layer is the mean attention object patches receive over the mean of all
    patches; 1 means that attention says nothing about objects.
    """
    tower.eval()
    rng = np.random.default_rng(99)
    probe = AttentionProbe(tower, tuple(range(VISION_LAYERS)))
    sums: dict[str, list[float]] = {}
    for _ in range(batches):
        batch = crowded_batch(rng, "test", 32)
        features = tower(batch.pixels, output_hidden_states=True).hidden_states[-1]
        logits = heads(features)
        shown = batch.digit >= 0
        digit, color = logits["digit"].argmax(-1), logits["color"].argmax(-1)
        photo = logits["photo"].argmax(-1) == batch.photo[:, None]
        values = {
            "digit": (digit == batch.digit)[shown],
            "color": (color == batch.color)[shown],
            "object": logits["object"].argmax(-1).bool() == shown,
            "photo": photo,
        }
        for layer in range(VISION_LAYERS):
            values[f"lift{layer}"] = probe.received(layer)[shown] * GRID_SIZE**2
        for name, value in values.items():
            sums.setdefault(name, []).append(float(value.float().mean()))
    probe.close()
    tower.train()
    return {name: float(np.mean(value)) for name, value in sums.items()}


def train_encoder(arguments: Namespace, out: Path, log: JsonLog) -> None:
    """Run (or resume) the encoder phase and write ``encoder.pt``."""
    torch.manual_seed(arguments.seed)
    tower, heads = build_model().model.vision_tower, DenseHeads()
    tower.set_attn_implementation("eager")  # the fused kernel is slower in bfloat16 on a CPU
    optimizer = make_optimizer([tower, heads])
    path, start = out / "encoder.pt", 0
    if path.exists():
        state = torch.load(path)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    probe = AttentionProbe(tower, ATTENTION_LAYERS)
    total = arguments.encoder_steps
    for step in range(start, total):
        rng = np.random.default_rng([arguments.seed, 1, step])
        batch = crowded_batch(rng, "train", arguments.encoder_batch)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bfloat16):
            features = tower(batch.pixels, output_hidden_states=True).hidden_states[-1]
            logits = heads(features)
            attention = attention_loss(probe, batch.digit >= 0)
        losses = dense_losses(logits, batch)
        weights = {"object": 1.0, "digit": 1.0, "color": 1.0}
        loss = sum(weights.get(name, 0.3) * value for name, value in losses.items())
        loss = loss + ATTENTION_WEIGHT * attention
        rate = learning_rate(step, total, arguments.encoder_rate)
        optimizer_step(optimizer, loss, rate)
        if step % 50 == 0:
            values = {name: float(value.detach()) for name, value in losses.items()}
            log.write(phase="encoder", step=step, attention=float(attention.detach()), **values)
        if (step + 1) % 250 == 0 or step + 1 == total:
            scores = evaluate_encoder(tower, heads)
            log.write(phase="encoder", step=step + 1, test=True, **scores)
            save_state(
                path,
                tower=tower.state_dict(),
                heads=heads.state_dict(),
                optimizer=optimizer.state_dict(),
                step=step + 1,
            )
