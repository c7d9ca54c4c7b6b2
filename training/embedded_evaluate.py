"""Export of the trained model and its evaluation on held-out digits and regions."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path

import torch
from embedded_batches import FRAME_TOKENS, VideoItem, encode_videos
from embedded_common import VIDEO_TOKENS, JsonLog, build_model
from embedded_language import accuracy, evaluate_language, selections
from torch import nn
from transformers import PreTrainedTokenizerFast

from tokenred.embedded import (
    KINDS,
    NUM_FRAMES,
    generate_sample,
    load_embedded_model,
    load_tokenizer,
    to_pixel_values,
)
from tokenred.embedded.questions import VOCABULARY

RANDOM_SEEDS = 3


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer over :data:`tokenred.embedded.VOCABULARY`."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel

    words = {word: number for number, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        extra_special_tokens=["<image>", "<video>"],
        padding_side="left",
    )


def export_model(out: Path) -> Path:
    """Write weights, configuration and tokenizer to ``out / "model"``."""
    model = build_model()
    model.load_state_dict(torch.load(out / "language.pt")["model"])
    folder = out / "model"
    model.generation_config.eos_token_id = VOCABULARY.index("<eos>")
    model.generation_config.pad_token_id = VOCABULARY.index("<pad>")
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_accuracy(model: nn.Module, tokenizer: PreTrainedTokenizerFast, videos: range,
                   seed: int) -> dict[str, tuple[int, int]]:  # fmt: skip
    """Right answers and questions per kind on the unchanged transformers path.

    Every question is asked alone with ``model(input_ids, pixel_values_videos)``, and the
    answer is the most likely word of the whole vocabulary.
    """
    counts = {kind: [0, 0] for kind in KINDS}
    for index in videos:
        sample = generate_sample(index, "test", seed)
        pixels = to_pixel_values(sample.frames)[None]
        for question in sample.questions:
            ids = tokenizer("<video>" * VIDEO_TOKENS + question.prompt, return_tensors="pt")
            logits = model(
                input_ids=ids.input_ids, pixel_values_videos=pixels, logits_to_keep=1
            ).logits
            guess = VOCABULARY[int(logits[0, -1].argmax())]
            counts[question.kind][0] += guess == question.answer
            counts[question.kind][1] += 1
    return {kind: (right, total) for kind, (right, total) in counts.items()}


def reduced_accuracy(model: nn.Module, items: list[VideoItem], keep: int) -> dict[str, dict]:
    """Accuracy per method with ``keep`` pooled tokens per frame; random is a mean over seeds."""
    results = {}
    for name, kept in selections(items, keep).items():
        if name != "random":
            results[name] = accuracy(evaluate_language(model, items, kept))
    draws = [selections(items, keep, seed)["random"] for seed in range(RANDOM_SEEDS)]
    scores = [accuracy(evaluate_language(model, items, kept)) for kept in draws]
    results["random"] = {k: sum(s[k] for s in scores) / len(scores) for k in scores[0]}
    return results


def majority_levels(items: list[VideoItem]) -> dict[str, float]:
    """Accuracy per kind of always giving the most frequent answer of that kind."""
    answers = {kind: Counter() for kind in KINDS}
    for item in items:
        for question in item.questions:
            answers[question.kind][question.answer] += 1
    return {kind: max(c.values()) / c.total() for kind, c in answers.items()}


def evaluate(arguments: Namespace, out: Path, log: JsonLog) -> None:
    """Export the model, measure it and write ``out / "evaluation.json"``."""
    folder = export_model(out)
    model = load_embedded_model(folder, attn_implementation="eager")  # exposes attention weights
    videos, seed = range(arguments.videos), arguments.seed
    items: list[VideoItem] = []
    tower = model.model.vision_tower
    for start in range(0, len(videos), 20):
        items += encode_videos(tower, videos[start : start + 20], "test", seed)
    everything = torch.arange(NUM_FRAMES * FRAME_TOKENS).expand(len(items), -1)
    counts = evaluate_language(model, items, everything)
    report: dict[str, object] = {
        "videos": len(items),
        "questions": {kind: total for kind, (_, total) in counts.items()},
        "chance": KINDS,
        "majority": majority_levels(items),
        "all tokens": accuracy(counts),
    }
    for keep in (5, 12):
        for name, scores in reduced_accuracy(model, items, keep).items():
            report[f"{name}, {keep} of {FRAME_TOKENS} tokens per frame"] = scores
    some = videos[: arguments.plain_videos]
    plain = plain_accuracy(load_embedded_model(folder), load_tokenizer(folder), some, seed)
    report["plain path videos"] = len(some)
    report["plain path"] = accuracy(plain)
    report["packed path on the same videos"] = accuracy(
        evaluate_language(model, items[: len(some)], everything[: len(some)])
    )
    (out / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    log.write(phase="evaluate", report=report)
