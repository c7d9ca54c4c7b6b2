"""Language phase: projector and language model learn the questions on frozen features."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from embedded_batches import (
    FRAME_TOKENS,
    IGNORE,
    POOLED_SIDE,
    WORD_IDS,
    Packed,
    VideoItem,
    draw_subset,
    encode_videos,
    pack_questions,
    pooled_embeddings,
    top_per_frame,
)
from embedded_common import (
    LANGUAGE_WIDTH,
    JsonLog,
    build_model,
    learning_rate,
    make_optimizer,
    optimizer_step,
    save_state,
)
from torch import nn
from torch.nn.functional import cross_entropy

from tokenred.embedded import KINDS, NUM_FRAMES
from tokenred.embedded.drawing import COLORS
from tokenred.embedded.questions import VOCABULARY
from tokenred.embedded.scenes import DIRECTIONS

MAX_QUESTIONS = 10  # packed per video and step
FRESH_VIDEOS = 2  # new videos encoded per step
PREFILL = 96  # videos encoded before the first step
BUFFER_SIZE = 3000  # recent videos kept as features
EMBEDDING_HEADS = {"digit": 10, "color": len(COLORS), "row": POOLED_SIDE, "column": POOLED_SIDE,
                   "photo": 2}  # fmt: skip
MIDDLE_HEADS = {"direction": len(DIRECTIONS), "cut": 2, "digit": 10, "color": len(COLORS)}
MIDDLE_LAYER = 2
KIND_WEIGHTS = {"order": 3.0, "count": 2.0}  # asked once a video, the others once a digit
POINTING_LAYER = 2  # language layer whose first heads are taught to look at the named object
POINTING_HEADS = 2


class TokenHeads(nn.Module):
    """Linear heads on visual tokens, for dense supervision; thrown away after the phase."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = self._heads(EMBEDDING_HEADS)
        self.middle = self._heads(MIDDLE_HEADS)

    @staticmethod
    def _heads(sizes: dict[str, int]) -> nn.ModuleDict:
        layers = {
            name: nn.Sequential(nn.LayerNorm(LANGUAGE_WIDTH), nn.Linear(LANGUAGE_WIDTH, size))
            for name, size in sizes.items()
        }
        return nn.ModuleDict(layers)


def run_language(
    model: nn.Module, visual: torch.Tensor, packed: Packed
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the language model on visual tokens and packed questions.

    Parameters
    ----------
    visual : torch.Tensor, shape (B, K, width)
        Pooled visual tokens that are kept, without the newline.

    Returns
    -------
    logits : torch.Tensor, shape (B, T, words)
        At the question words.
    middle : torch.Tensor, shape (B, K, width)
        Hidden states of the visual tokens after MIDDLE_LAYER layers.
    pointing : torch.Tensor, shape (B, T, K)
        Attention from question words to visual tokens, mean over the pointing heads.
    """
    inner = model.model
    newline = inner.image_newline.expand(len(visual), 1, -1)
    words = inner.get_input_embeddings()(packed.ids)
    inputs = torch.cat([visual, newline, words], dim=1)
    blocked = torch.zeros(packed.mask.shape).masked_fill_(~packed.mask, -1e9)
    outputs = inner.language_model(
        inputs_embeds=inputs,
        attention_mask=blocked,
        position_ids=packed.positions,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=True,
    )
    count = visual.shape[1]
    logits = model.lm_head(outputs.last_hidden_state[:, count + 1 :])
    attention = outputs.attentions[POINTING_LAYER][:, :POINTING_HEADS, count + 1 :, :count]
    return logits.float(), outputs.hidden_states[MIDDLE_LAYER][:, :count], attention.mean(1)


def pointing_loss(
    pointing: torch.Tensor, packed: Packed, labels: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Negative log of the attention that question words pay to the object they name.

    Objects none of whose tokens are kept do not count.
    """
    digit_words = torch.tensor([WORD_IDS[str(number)] for number in range(10)])
    color_words = torch.tensor([WORD_IDS[color] for color in COLORS])
    shown = labels["object"] >= 0
    target = torch.zeros(pointing.shape, dtype=torch.bool)
    for name, words in (("digit", digit_words), ("color", color_words)):
        word = torch.where(shown, words[labels[name].clamp_min(0)], -1)  # (B, K)
        target |= packed.keys[:, :, None] == word[:, None, :]
    mass = (pointing.float() * target).sum(-1)[target.any(-1)]
    return -(mass + 1e-3).log().mean() if len(mass) else pointing.sum() * 0.0


def token_losses(
    heads: TokenHeads, visual: torch.Tensor, middle: torch.Tensor, labels: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the token heads; ``labels`` hold the kept tokens only, (B, K) each."""
    losses = {}
    for prefix, group, states in (("in", heads.embedding, visual), ("mid", heads.middle, middle)):
        for name, head in group.items():
            target = labels[name].flatten()
            logits = head(states).float().flatten(0, 1)
            if (target != IGNORE).any():
                losses[f"{prefix}_{name}"] = cross_entropy(logits, target, ignore_index=IGNORE)
    return losses


def kept_labels(items: list[VideoItem], kept: torch.Tensor) -> dict[str, torch.Tensor]:
    """Token labels of the kept tokens; direction only after an object's first kept frame."""
    names = items[0].labels
    labels = {n: torch.stack([item.labels[n] for item in items]).gather(1, kept) for n in names}
    for number in range(4):
        mine = labels["object"] == number
        first = torch.where(mine, labels["frame"], NUM_FRAMES).amin(1, keepdim=True)
        labels["direction"][mine & (labels["frame"] <= first)] = IGNORE
    return labels


def choose_tokens(
    rng: np.random.Generator, items: list[VideoItem], progress: float
) -> torch.Tensor | None:
    """Token subset of a training step, None for all tokens; longer towards the end."""
    if rng.random() < (0.04 if progress < 0.35 else 0.12 if progress < 0.75 else 0.35):
        return None
    largest = 8 if progress < 0.35 else 18 if progress < 0.75 else 29
    keep = int(rng.integers(4, largest + 1))
    objects = rng.random() < (0.85 if progress < 0.5 else 0.65)
    return draw_subset(rng, items, keep, objects=objects)


def kind_weights(packed: Packed) -> torch.Tensor:
    """Weight of every answer by its kind, zero at other places, shape (B, T)."""
    weights = torch.zeros(packed.labels.shape)
    for row, (kinds, places) in enumerate(zip(packed.kinds, packed.answer_at, strict=True)):
        weights[row, places] = torch.tensor([KIND_WEIGHTS.get(kind, 1.0) for kind in kinds])
    return weights


def training_loss(
    model: nn.Module, heads: TokenHeads, items: list[VideoItem], kept: torch.Tensor,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # fmt: skip
    """Total loss of a step and its parts."""
    chosen = [rng.permutation(len(item.questions))[:MAX_QUESTIONS] for item in items]
    questions = [[item.questions[k] for k in ks] for item, ks in zip(items, chosen, strict=True)]
    packed = pack_questions(questions, kept.shape[1] + 1)
    visual = pooled_embeddings(model, items)
    visual = visual.gather(1, kept[..., None].expand(-1, -1, visual.shape[-1]))
    logits, middle, pointing = run_language(model, visual, packed)
    eos = VOCABULARY.index("<eos>")
    loss_all = cross_entropy(logits.flatten(0, 1), packed.labels.flatten(), reduction="none",
                             ignore_index=IGNORE).view_as(packed.labels)  # fmt: skip
    is_end, is_any = packed.labels == eos, packed.labels != IGNORE
    labels = kept_labels(items, kept)
    parts = token_losses(heads, visual, middle, labels)
    total = 0.2 * sum(value for name, value in parts.items() if name.startswith("in_"))
    total = total + 0.4 * sum(value for name, value in parts.items() if name.startswith("mid_"))
    weights = kind_weights(packed)
    parts["answer"] = (loss_all * weights)[is_any & ~is_end].sum() / weights.sum()
    parts["pointing"] = pointing_loss(pointing, packed, labels)
    total = total + 0.5 * parts["pointing"]
    total = total + parts["answer"] + 0.1 * loss_all[is_end].mean()
    return total, parts


@torch.no_grad()
def evaluate_language(
    model: nn.Module, items: list[VideoItem], kept: torch.Tensor, batch: int = 25
) -> dict[str, tuple[int, int]]:
    """Right answers and questions per kind, with the kept tokens only.

    Parameters
    ----------
    kept : torch.Tensor of int64, shape (len(items), K)
    """
    model.eval()
    counts = {kind: [0, 0] for kind in KINDS}
    for start in range(0, len(items), batch):
        group, rows = items[start : start + batch], kept[start : start + batch]
        packed = pack_questions([list(item.questions) for item in group], rows.shape[1] + 1)
        visual = pooled_embeddings(model, group)
        visual = visual.gather(1, rows[..., None].expand(-1, -1, visual.shape[-1]))
        guess = run_language(model, visual, packed)[0].argmax(-1)
        for row, (kinds, places) in enumerate(zip(packed.kinds, packed.answer_at, strict=True)):
            for kind, place in zip(kinds, places, strict=True):
                counts[kind][0] += int(guess[row, place] == packed.labels[row, place])
                counts[kind][1] += 1
    model.train()
    return {kind: (right, total) for kind, (right, total) in counts.items()}


def selections(items: list[VideoItem], keep: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Token subsets of the methods compared in training: random and received attention."""
    shape = (len(items), NUM_FRAMES, FRAME_TOKENS)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    received = torch.stack([item.received for item in items])
    result = {"random": top_per_frame(noise, keep)}
    for layer in range(received.shape[1]):
        result[f"attention{layer}"] = top_per_frame(received[:, layer], keep)
    return result


def accuracy(counts: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Accuracy per kind and overall (over questions)."""
    result = {kind: right / max(1, total) for kind, (right, total) in counts.items()}
    right, total = (sum(column) for column in zip(*counts.values(), strict=True))
    return {"overall": right / max(1, total), **result}


def log_scores(model: nn.Module, items: list[VideoItem], log: JsonLog, step: int) -> None:
    """Evaluate all tokens and the selections at about 10 %, and log the accuracies."""
    everything = torch.arange(NUM_FRAMES * FRAME_TOKENS).expand(len(items), -1)
    subsets = {"all": everything, **selections(items, 5)}
    for name in ("all", "random", "attention0", "attention1", "attention2"):
        scores = accuracy(evaluate_language(model, items, subsets[name]))
        rounded = {kind: round(value, 3) for kind, value in scores.items()}
        log.write(phase="language", step=step, test=True, tokens=name, **rounded)


def train_language(arguments: Namespace, out: Path, log: JsonLog) -> None:
    """Run (or resume) the language phase and write ``language.pt``."""
    torch.manual_seed(arguments.seed)
    model, heads = build_model(), TokenHeads()
    tower = model.model.vision_tower
    tower.load_state_dict(torch.load(out / "encoder.pt")["tower"])
    tower.requires_grad_(False).eval()
    # the fused kernel is slower in bfloat16 on a CPU
    model.model.language_model.set_attn_implementation("eager")
    path, start = out / "language.pt", 0
    optimizer = make_optimizer([model, heads])
    if path.exists():
        state = torch.load(path)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    test_items = encode_videos(tower, range(100), "test", arguments.seed)
    buffer: list[VideoItem] = []
    latest = PREFILL + start * FRESH_VIDEOS  # videos drawn before this step
    for begin in range(max(0, latest - PREFILL), latest, FRESH_VIDEOS):
        indices = range(begin, begin + FRESH_VIDEOS)
        buffer += encode_videos(tower, indices, "train", arguments.seed, arguments.bfloat16)
    running: dict[str, float] = {}
    for step in range(start, arguments.language_steps):
        rng = np.random.default_rng([arguments.seed, 2, step])
        begin = PREFILL + step * FRESH_VIDEOS
        indices = range(begin, begin + FRESH_VIDEOS)
        buffer += encode_videos(tower, indices, "train", arguments.seed, arguments.bfloat16)
        del buffer[:-BUFFER_SIZE]
        size = min(arguments.language_batch, len(buffer))
        items = [buffer[k] for k in rng.choice(len(buffer), size, replace=False)]
        kept = choose_tokens(rng, items, step / arguments.language_steps)
        if kept is None:  # full sequences cost several times more: use fewer of them
            items = items[: max(1, size // 3)]
            kept = torch.arange(NUM_FRAMES * FRAME_TOKENS).expand(len(items), -1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bfloat16):
            loss, parts = training_loss(model, heads, items, kept, rng)
        rate = learning_rate(step, arguments.language_steps, arguments.language_rate)
        optimizer_step(optimizer, loss, rate)
        for name, value in parts.items():
            running[name] = 0.95 * running.get(name, value.item()) + 0.05 * value.item()
        if step % 50 == 0:
            log.write(phase="language", step=step, **running)
        if (step + 1) % 200 == 0 or step + 1 == arguments.language_steps:
            log_scores(model, test_items, log, step + 1)
            save_state(path, model=model.state_dict(), heads=heads.state_dict(),
                       optimizer=optimizer.state_dict(), step=step + 1)  # fmt: skip
