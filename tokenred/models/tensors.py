"""Reduce features that are plain tensors: no model, no adapter."""

from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenred.config import is_of_frames, reads_question
from tokenred.errors import CapabilityError, InputError, shown
from tokenred.models.cues.names import POOLER, POOLER_ATTENTION, resolve_layer
from tokenred.pipeline import Pipeline, PipelineConfig, load_pipeline
from tokenred.pipeline.config import RETENTION
from tokenred.types import ReducedTokens, VisualTokens

RECEIVED = ("attention", "salience")
"""Cues that a stack of attention has, each of them ``CUE@LAYER``."""
N_NAMED = 4
"""Missing cues that an error names."""


def reduce(
    features: Tensor,
    pipeline: str | Path | Mapping[str, Any] | PipelineConfig | Pipeline,
    *,
    attention: Tensor | None = None,
    cues: Mapping[str, Tensor] | None = None,
    grid: tuple[int, int] | None = None,
    retention: float | None = None,
    frame_times: Tensor | None = None,
    native_pool: str = "none",
    generator: torch.Generator | None = None,
    trace: bool = False,
) -> ReducedTokens:
    """Reduce the visual tokens of one video, given as plain tensors.

    Parameters
    ----------
    features : (frames, tokens, dim), what the LLM would read, before the model's own pooling
    pipeline : a preset by name, a YAML file by path, a mapping, or one that is loaded
    attention : (layers, frames, tokens), what every token receives in each layer of the vision
        tower, mean over heads and queries; the last layer is the one whose output the features come
        from. ``(frames, tokens)`` is enough where the pipeline reads one layer
    cues : anything else that a pipeline reads, by the names in ``Pipeline.needs``
    grid : rows and columns of a frame; square by default
    retention : share of the tokens to keep; the pipeline's own by default
    frame_times, native_pool : see ``VisualTokens``
    generator, trace : see ``Pipeline.run``

    Raises
    ------
    InputError
        If a tensor has another shape.
    CapabilityError
        If the pipeline needs cues that are not given, whose shapes the message names, or works
        inside the LLM.

    Examples
    --------
    >>> import torch, tokenred
    >>> features, attention = torch.randn(4, 36, 8), torch.rand(6, 4, 36)
    >>> tokenred.reduce(features, "aot-paper", attention=attention, retention=0.25).features.shape
    torch.Size([36, 8])
    """
    chosen = pipeline
    if not isinstance(chosen, Pipeline) or retention is not None:
        config = chosen.config if isinstance(chosen, Pipeline) else chosen
        chosen = load_pipeline(config, None if retention is None else {RETENTION: retention})
    if chosen.inside_llm:
        raise CapabilityError(
            f"pipeline '{shown(chosen.config.name)}' works inside the LLM, which tensors alone do "
            "not have; tokenred.attach runs it on a model"
        )
    tokens = VisualTokens.of(
        features, grid or _square(features), frame_times=frame_times, native_pool=native_pool
    )
    given = dict(cues or {})
    if attention is not None:
        given = _received(chosen, attention, tokens) | given
    _check_needs(chosen, given, tokens)
    tokens = VisualTokens.of(
        features, tokens.grid, frame_times=frame_times, cues=given, native_pool=native_pool
    )
    return chosen.run(tokens, generator=generator, trace=trace)


def _square(features: Tensor) -> tuple[int, int]:
    """Return the grid of square frames."""
    if features.ndim != 3:
        return (0, 0)  # VisualTokens says what the shape should be
    side = isqrt(features.shape[1])
    if side**2 != features.shape[1]:
        raise InputError(
            f"{features.shape[1]} tokens a frame are no square: give grid=(rows, columns)"
        )
    return side, side


def _received(pipeline: Pipeline, attention: Tensor, tokens: VisualTokens) -> dict[str, Tensor]:
    """Return the layers of a stack of attention that a pipeline reads, by the names of the cues."""
    frames, n_tokens = tokens.keep.shape
    places = {
        name: name.partition("@")[2]
        for name in sorted(pipeline.needs - {POOLER_ATTENTION})
        if name.partition("@")[0] in RECEIVED
    }
    if tuple(attention.shape) == (frames, n_tokens) and len(set(places.values())) < 2:
        return dict.fromkeys(places, attention)
    if attention.ndim != 3 or tuple(attention.shape[1:]) != (frames, n_tokens):
        read = f", of which {', '.join(places)} are read" if len(places) > 1 else ""
        raise InputError(
            f"attention must be (layers, {frames}, {n_tokens}), one of each layer of the "
            f"tower{read}, got shape {tuple(attention.shape)}"
        )
    return {name: attention[resolve_layer(place, len(attention))] for name, place in places.items()}


def _check_needs(pipeline: Pipeline, given: Mapping[str, Tensor], tokens: VisualTokens) -> None:
    missing = sorted(pipeline.needs - set(given))
    if not missing:
        return
    frames, n_tokens = tokens.keep.shape
    named = [f"{name} {_shape(name, frames, n_tokens)}" for name in missing[:N_NAMED]]
    more = f" and {len(missing) - N_NAMED} more" if len(missing) > N_NAMED else ""
    stack = any(name.partition("@")[0] in RECEIVED for name in missing)
    way = f"attention=(layers, {frames}, {n_tokens}) or " if stack else ""
    raise CapabilityError(
        f"pipeline '{shown(pipeline.config.name)}' needs {', '.join(named)}{more}: "
        f"give {way}cues={{name: tensor}}"
    )


def _shape(cue: str, frames: int, tokens: int) -> str:
    """Return the shape of a cue in words."""
    if cue == POOLER:
        return f"({frames}, width)"
    if is_of_frames(cue):
        return f"({frames},)"
    if reads_question((cue,)):
        return f"({frames}, {tokens}, words)"
    flat, wide = f"({frames}, {tokens})", f"({frames}, {tokens}, width)"
    kind, marker, _ = cue.partition("@")
    if "attention" in kind or "salience" in kind:
        return flat
    return wide if marker or cue == "tower" else f"{flat} or {wide}"
