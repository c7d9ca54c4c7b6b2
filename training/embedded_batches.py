"""Videos as frozen encoder features, token subsets, and question packing for the language phase."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from embedded_common import VIDEO_TOKENS, VISION_LAYERS, AttentionProbe
from torch import nn
from torch.nn.functional import interpolate

from tokenred.embedded import EmbeddedQuestion, EmbeddedSample, generate_sample, to_pixel_values
from tokenred.embedded.drawing import COLORS, GRID_SIZE
from tokenred.embedded.questions import VOCABULARY
from tokenred.embedded.scenes import DIRECTIONS, NUM_FRAMES

POOLED_SIDE = math.ceil(GRID_SIZE / 2)
FRAME_TOKENS = POOLED_SIDE**2
WORD_IDS = {word: number for number, word in enumerate(VOCABULARY)}
NAMES = {*COLORS, *map(str, range(10))}
IGNORE = -100
_COVERED = 0.3  # share of a pooled token that must come from one object to count as that object


@dataclass
class VideoItem:
    """Encoder features and token labels of one video.

    Attributes
    ----------
    features : torch.Tensor of float16, shape (NUM_FRAMES, GRID_SIZE**2, width)
        Output of the last vision layer.
    received : torch.Tensor of float32, shape (VISION_LAYERS, NUM_FRAMES, FRAME_TOKENS)
        Received attention per vision layer, pooled like the features.
    labels : dict of torch.Tensor of int64, each of shape (NUM_FRAMES * FRAME_TOKENS,)
        Label per pooled token; IGNORE where a label does not apply.
    questions : tuple of EmbeddedQuestion
    """

    features: torch.Tensor
    received: torch.Tensor
    labels: dict[str, torch.Tensor]
    questions: tuple[EmbeddedQuestion, ...]


def pool_grid(values: torch.Tensor) -> torch.Tensor:
    """Pool (..., GRID_SIZE, GRID_SIZE) maps as the model pools its features."""
    flat = values.reshape(-1, 1, GRID_SIZE, GRID_SIZE).float()
    pooled = interpolate(flat, size=(POOLED_SIDE, POOLED_SIDE), mode="bilinear")
    return pooled.reshape(*values.shape[:-2], POOLED_SIDE, POOLED_SIDE)


def token_labels(sample: EmbeddedSample) -> dict[str, torch.Tensor]:
    """Ground truth on pooled tokens, see :class:`VideoItem`."""
    scene = sample.scene
    grid = torch.from_numpy(scene.object_map())
    shares = torch.stack([pool_grid(grid == k) for k in range(len(scene.objects))])
    share, owner = shares.max(0)
    owner = torch.where(share >= _COVERED, owner, -1).flatten()

    def of_object(values: list[int]) -> torch.Tensor:
        return torch.where(owner >= 0, torch.tensor(values)[owner.clamp_min(0)], IGNORE)

    position = torch.arange(NUM_FRAMES * FRAME_TOKENS)
    frame, cell = position // FRAME_TOKENS, position % FRAME_TOKENS
    colors, directions = list(COLORS), list(DIRECTIONS)
    return {
        "object": owner,
        "digit": of_object([item.digit for item in scene.objects]),
        "color": of_object([colors.index(item.color) for item in scene.objects]),
        "direction": of_object([directions.index(item.direction) for item in scene.objects]),
        "row": cell // POOLED_SIDE,
        "column": cell % POOLED_SIDE,
        "photo": torch.tensor(scene.photos)[frame],
        "cut": (frame >= (NUM_FRAMES if scene.cut is None else scene.cut)).long(),
        "frame": frame,
    }


@torch.no_grad()
def encode_videos(
    tower: nn.Module, indices: range, split: str, seed: int, bfloat16: bool = False
) -> list[VideoItem]:
    """Generate videos and run the frozen vision tower on them."""
    samples = [generate_sample(index, split, seed) for index in indices]
    pixels = torch.cat([to_pixel_values(sample.frames) for sample in samples])
    probe = AttentionProbe(tower, tuple(range(VISION_LAYERS)) if split == "test" else ())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        features = tower(pixels, output_hidden_states=True).hidden_states[-1]
    features = features.half().unflatten(0, (len(samples), NUM_FRAMES))
    shape = (len(samples), NUM_FRAMES, GRID_SIZE, GRID_SIZE)
    received = [pool_grid(probe.received(k).reshape(shape)).flatten(2) for k in probe.layers]
    probe.close()
    stacked = torch.stack(received, 1) if received else torch.zeros(len(samples), 0)
    return [
        VideoItem(features[k].clone(), stacked[k], token_labels(sample), sample.questions)
        for k, sample in enumerate(samples)
    ]


def pooled_embeddings(model: nn.Module, items: list[VideoItem]) -> torch.Tensor:
    """Project and pool features, shape (B, NUM_FRAMES * FRAME_TOKENS, language width)."""
    features = torch.cat([item.features.float() for item in items])
    projected = model.model.multi_modal_projector(features)
    return model.model.apply_pooling(projected).reshape(len(items), VIDEO_TOKENS - 1, -1)


def top_per_frame(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Return the indices of the ``keep`` best tokens of every frame, in order.

    Parameters
    ----------
    scores : torch.Tensor, shape (B, NUM_FRAMES, FRAME_TOKENS)
    keep : int
        Tokens kept in each frame.

    Returns
    -------
    torch.Tensor of int64, shape (B, NUM_FRAMES * keep)
    """
    best = scores.topk(keep, dim=-1).indices.sort(dim=-1).values
    offset = torch.arange(NUM_FRAMES)[:, None] * FRAME_TOKENS
    return (best + offset).flatten(1)


def draw_subset(
    rng: np.random.Generator, items: list[VideoItem], keep: int, objects: bool
) -> torch.Tensor:
    """Random token subset; with ``objects`` most object tokens are kept.

    Returns
    -------
    torch.Tensor of int64, shape (B, NUM_FRAMES * keep)
    """
    shape = (len(items), NUM_FRAMES, FRAME_TOKENS)
    scores = torch.from_numpy(rng.random(shape))
    if objects:
        owner = torch.stack([item.labels["object"] for item in items]).reshape(shape)
        kept = torch.from_numpy(rng.random(shape)) < 0.92
        scores = scores + ((owner >= 0) & kept)
    if rng.random() < 0.3:  # an unequal number of tokens per frame
        scores = scores + 0.5 * torch.from_numpy(rng.random((*shape[:2], 1)))
        flat = scores.flatten(1).topk(keep * NUM_FRAMES, dim=-1).indices
        return flat.sort(dim=-1).values
    return top_per_frame(scores, keep)


@dataclass
class Packed:
    """Questions of several videos packed behind their visual tokens.

    Attributes
    ----------
    ids, labels : torch.Tensor of int64, shape (B, T)
        Words after the visual tokens, and the word to predict at each place or IGNORE.
    keys : torch.Tensor of int64, shape (B, T)
        The colour or digit word that ends a question about a named object, at its place;
        IGNORE elsewhere.
    positions : torch.Tensor of int64, shape (B, visual + T)
        Every question starts right after the visual tokens.
    mask : torch.Tensor of bool, shape (B, 1, visual + T, visual + T)
        True where attention is allowed.
    kinds : list of list of str
        Kinds of the packed questions.
    answer_at : list of list of int
        Place in 0..T of the last word of every question, where the answer is predicted.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    keys: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    kinds: list[list[str]]
    answer_at: list[list[int]]


def pack_questions(questions: list[list[EmbeddedQuestion]], visual: int) -> Packed:
    """Pack questions so that each sees the video and itself only."""
    rows = [[[*q.words, q.answer] for q in group] for group in questions]
    longest = max(sum(map(len, row)) for row in rows)
    shape = (len(rows), longest)
    ids = torch.full(shape, WORD_IDS["<pad>"])
    labels, keys = (torch.full(shape, IGNORE) for _ in range(2))
    offsets, segments = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    answer_at: list[list[int]] = []
    for row, words_of_row in enumerate(rows):
        start, ends = 0, []
        for number, words in enumerate(words_of_row):
            stop = start + len(words)
            ids[row, start:stop] = torch.tensor([WORD_IDS[word] for word in words])
            if words[-2] in NAMES:
                keys[row, stop - 2] = WORD_IDS[words[-2]]
            labels[row, stop - 2] = WORD_IDS[words[-1]]
            labels[row, stop - 1] = WORD_IDS["<eos>"]
            offsets[row, start:stop] = torch.arange(len(words))
            segments[row, start:stop] = number
            ends.append(stop - 2)
            start = stop
        answer_at.append(ends)
    before = torch.arange(visual).expand(len(rows), -1)
    total = visual + longest
    same = torch.zeros(len(rows), total, total, dtype=torch.bool)
    same[:, :, :visual] = True
    same[:, visual:, visual:] = segments[:, :, None] == segments[:, None, :]
    mask = (same & torch.ones(total, total, dtype=torch.bool).tril())[:, None]
    kinds = [[q.kind for q in group] for group in questions]
    positions = torch.cat([before, visual + offsets], 1)
    return Packed(ids, labels, keys, positions, mask, kinds, answer_at)
