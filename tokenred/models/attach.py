"""Run an unmodified ``model.generate(...)`` or ``model(...)`` on reduced videos."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from tokenred.errors import CapabilityError, ConfigError, InputError, nearest
from tokenred.models.base import ModelAdapter, ReducingPipeline, adapter_for, reduce_tokens
from tokenred.models.splice import Spliced
from tokenred.pipeline import load_pipeline
from tokenred.types import Realised, ReducedTokens

POSITIONS = ("contiguous", "original")
_MISSING = object()
_attached: WeakSet[Any] = WeakSet()


@dataclass
class Session:
    """What happened in the latest call that carried a video, one entry a video."""

    reduced: list[ReducedTokens] = field(default_factory=list)

    @property
    def realised(self) -> list[Realised]:
        """What the pipeline really did; newline tokens are counted apart."""
        return [each.realised for each in self.reduced]


@contextmanager
def attach(
    model: Any,
    pipeline: ReducingPipeline | str | Path | Mapping[str, Any],
    *,
    positions: str = "contiguous",
    adapter: ModelAdapter | None = None,
) -> Iterator[Session]:
    """Reduce every video that the model reads while the context lasts.

    Calls of ``model.generate`` and ``model`` that carry a video are encoded and reduced first; the
    model then runs on the short embedded prompt. ``generate`` still returns the original prompt in
    front of the new tokens. Calls without video pass through untouched, and everything is as before
    after the ``with``, exceptions included.

    Parameters
    ----------
    model : a transformers model that ``adapter_for`` knows
    pipeline : a pipeline, the name of a preset, the path of a YAML file, or its mapping
    positions : ``contiguous`` renumbers the short prompt; ``original`` keeps for every token the
        position that it has in the unreduced prompt
    adapter : for a model family of your own

    Yields
    ------
    Session
        With ``realised`` and ``reduced`` of the latest call.

    Raises
    ------
    CapabilityError
        If the model is not supported, is attached already, or cannot give a cue.
    ConfigError
        If the pipeline or ``positions`` is not valid.
    """
    if positions not in POSITIONS:
        raise ConfigError(f"unknown positions {positions!r}{nearest(positions, POSITIONS)}")
    if model in _attached:
        raise CapabilityError("this model is attached already; leave that `with` block first")
    calls = _Calls(adapter or adapter_for(model), _resolve(pipeline), positions, Session())
    calls.adapter.check(calls.pipeline.needs)
    own = {name: vars(model).get(name, _MISSING) for name in ("generate", "forward")}
    _attached.add(model)
    try:
        model.generate = calls.wrap_generate(model.generate)
        model.forward = calls.wrap_forward(model.forward)
        yield calls.session
    finally:
        _attached.discard(model)
        for name, value in own.items():
            if value is not _MISSING:
                setattr(model, name, value)
            elif name in vars(model):
                delattr(model, name)


@dataclass(frozen=True)
class _Calls:
    """The two wrapped methods and what they share."""

    adapter: ModelAdapter
    pipeline: ReducingPipeline
    positions: str
    session: Session

    def wrap_forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # functools.wraps keeps the signature, which generate() inspects.
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            inputs = _by_name(original, args, kwargs)
            if not self._has_video(inputs):
                return original(*args, **kwargs)
            spliced, rest = self._shorten(inputs)
            if (labels := rest.get("labels")) is not None:
                rest["labels"] = spliced.layout.take(labels, -100)
            return original(**rest)

        return forward

    def wrap_generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            inputs = _by_name(original, args, kwargs)
            if inputs.get("inputs") is not None:
                inputs["input_ids"] = inputs.pop("inputs")
            if not self._has_video(inputs):
                return original(*args, **kwargs)
            prompt = inputs["input_ids"]
            with torch.no_grad():
                spliced, rest = self._shorten(inputs)
            short = spliced.layout.input_ids
            _lower_limits(rest, prompt.shape[1] - short.shape[1])
            return _restore_prompt(original(input_ids=short, **rest), prompt, short.shape[1])

        return generate

    def _has_video(self, inputs: Mapping[str, Any]) -> bool:
        if (inputs.get("mm_encoder_outputs") or {}).get("video") is not None:
            raise CapabilityError("videos that are encoded beforehand cannot be reduced")
        return inputs.get(self.adapter.video_inputs[0]) is not None

    def _shorten(self, inputs: Mapping[str, Any]) -> tuple[Spliced, dict[str, Any]]:
        """Encode, reduce and splice; return the inputs of the model without the video."""
        _refuse(inputs)
        rest = dict(inputs)
        video = {name: rest.pop(name) for name in self.adapter.video_inputs if name in rest}
        tokens = self.adapter.encode(**video, needs=self.pipeline.needs)
        reduced = [reduce_tokens(self.adapter, each, self.pipeline) for each in tokens]
        self.session.reduced = reduced
        spliced = self.adapter.splice(
            rest.pop("input_ids"),
            rest.pop("attention_mask", None),
            reduced,
            positions=self.positions,
        )
        device = spliced.inputs_embeds.device
        # The mask is always given: with gaps in the positions and no mask, transformers would take
        # the prompt for several packed sequences.
        rest["attention_mask"] = spliced.layout.attention_mask.to(device)
        rest["inputs_embeds"] = spliced.inputs_embeds
        if spliced.position_ids is not None:
            rest["position_ids"] = spliced.position_ids.to(device)
        return spliced, rest


def _resolve(pipeline: Any) -> ReducingPipeline:
    if isinstance(pipeline, str | Path | Mapping):
        return load_pipeline(pipeline)
    return pipeline


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by name, however they were given."""
    if not args:
        return dict(kwargs)
    bound = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    return {**bound, **bound.pop("kwargs", {})}


def _refuse(inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that describe the unreduced sequence in a way that cannot be shortened."""
    if inputs.get("input_ids") is None:
        raise InputError("a call with a video needs input_ids: they say where the video stands")
    for name in ("inputs_embeds", "position_ids"):
        if inputs.get(name) is not None:
            raise CapabilityError(f"{name} cannot be given together with a video to reduce")
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim != 2:
        raise CapabilityError("attention_mask must be (rows, tokens) where a video is reduced")
    cache = inputs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise CapabilityError("a video cannot be reduced in the middle of a cached conversation")


def _lower_limits(inputs: dict[str, Any], saved: int) -> None:
    """Lower limits that count the prompt, so that they mean what they mean unreduced."""
    config = inputs.get("generation_config")
    if config is not None:
        inputs["generation_config"] = config = copy.deepcopy(config)
    for name in ("max_length", "min_length"):
        if inputs.get(name) is not None:
            inputs[name] -= saved
        elif config is not None and getattr(config, name, None) is not None:
            setattr(config, name, max(getattr(config, name) - saved, 0))


def _restore_prompt(output: Any, prompt: Tensor, n_short: int) -> Any:
    """Put the original prompt in front of the new tokens: callers cut by its length."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    repeated = prompt.repeat_interleave(sequences.shape[0] // prompt.shape[0], 0)
    full = torch.cat((repeated.to(sequences.device), sequences[:, n_short:]), dim=1)
    if isinstance(output, Tensor):
        return full
    output.sequences = full
    return output
