"""The cue that comes from the question: how similar visual tokens are to its words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.config import TEXT_SIMILARITY
from tokenred.errors import InputError
from tokenred.models.cues.text import text_similarity
from tokenred.models.splice import Clip, placeholder_columns

Questions = Sequence[Int[Tensor, "words"]]
"""Token ids of the question of every prompt of a call."""


def with_question(
    adapter: Any, clips: Sequence[Clip], inputs: Mapping[str, Any], questions: Questions | None
) -> list[Clip]:
    """Return clips with the cue ``text-similarity`` of the prompt in which each stands.

    Parameters
    ----------
    adapter : of the model whose embeddings are taken
    inputs : of the call, ``input_ids`` and perhaps ``attention_mask`` among them
    questions : of the call's prompts; by default all text of a prompt but the special tokens that
        the model's config names, words of a chat template included

    Raises
    ------
    InputError
        If a prompt has no question, or the questions are not as many as the prompts.
    """
    ids = inputs["input_ids"]
    if questions is not None and len(questions) != len(ids):
        raise InputError(f"{len(questions)} questions are given for {len(ids)} prompts")
    found: dict[int, Tensor] = {}
    told = []
    for clip, row in zip(clips, _rows(adapter, clips, ids), strict=True):
        if row not in found:
            asked = _text_of(adapter, inputs, row) if questions is None else questions[row]
            found[row] = question_words(adapter, asked)
        told.append(with_words(clip, found[row]))
    return told


def question_words(adapter: Any, question: Int[Tensor, "words"]) -> Float[Tensor, "words dim"]:
    """Return the model's embeddings of the words of a question.

    Raises
    ------
    InputError
        If there is none.
    """
    if not len(question):
        raise InputError("the pipeline reads the question, and this prompt has none")
    embed = adapter.model.get_input_embeddings()
    if embed.weight.device.type != "meta":  # offloaded; its hook sees to the device then
        question = question.to(embed.weight.device)
    return embed(question.long()).detach()


def with_words(clip: Clip, words: Float[Tensor, "words dim"]) -> Clip:
    """Return a clip with the cue ``text-similarity`` of these words."""
    features = clip.tokens.features
    cue = text_similarity(features, words.to(features.device))
    return replace(
        clip, tokens=replace(clip.tokens, cues={**clip.tokens.cues, TEXT_SIMILARITY: cue})
    )


def _rows(adapter: Any, clips: Sequence[Clip], ids: Int[Tensor, "rows full"]) -> list[int]:
    """Return the prompt in which each clip stands."""
    found: dict[int, int] = {}
    for kind, token_id in adapter.token_ids.items():
        of_kind = [index for index, clip in enumerate(clips) if clip.layout.kind == kind]
        counts = [clips[index].layout.n_placeholders for index in of_kind]
        if counts:
            spans = placeholder_columns(ids, token_id, counts, kind)
            found |= {index: row for index, (row, _) in zip(of_kind, spans, strict=True)}
    return [found[index] for index in range(len(clips))]


def _text_of(adapter: Any, inputs: Mapping[str, Any], row: int) -> Int[Tensor, "words"]:
    """Return what a prompt says, without special tokens and padding."""
    ids, mask = inputs["input_ids"][row], inputs.get("attention_mask")
    special = {*adapter.token_ids.values(), *_special_tokens(adapter.model)}
    is_text = ~torch.isin(ids, ids.new_tensor(sorted(special)))
    return ids[is_text if mask is None else is_text & mask[row].bool()]


def _special_tokens(model: Any) -> set[int]:
    """Return the tokens that the configs of a model name."""
    configs = (model.config, getattr(model.config, "text_config", None), model.generation_config)
    named = [
        value
        for config in configs
        for name, value in vars(config or object).items()
        if name.endswith("_token_id")
    ]
    flat = [one for each in named for one in (each if isinstance(each, list | tuple) else [each])]
    return {one for one in flat if isinstance(one, int) and one >= 0}
