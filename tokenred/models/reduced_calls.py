"""Wrap the calls of a transformers model to run on reduced clips."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, RLock
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from tokenred.errors import CapabilityError, InputError
from tokenred.models.splice import Clip, Spliced, prompt_tokens
from tokenred.types import ReducedTokens


@runtime_checkable
class Reduction(Protocol):
    """How the clips of a call are encoded and reduced."""

    frame_times: Sequence[Tensor] | None
    """Seconds of the frames, one tensor a video."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that the clips must bring."""
        ...

    def encode(self, inputs: Mapping[str, Any]) -> list[Clip]:
        """Encode all images and videos among the inputs of a call."""
        ...

    def reduce(self, clips: Sequence[Clip]) -> list[ReducedTokens]:
        """Return what is left of each clip."""
        ...


Inside = Any
"""What works inside the LLM (``tokenred.models.inside.llm``), or None."""

PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
"""Inputs with one entry a token, which the model may be given beside the mask."""

_MISSING = object()
_PROMPT = "_tokenred_prompt"
"""Attribute of a cache: the reduced prompt it begins with, which its caller may continue."""


@contextmanager
def wrapped_calls(
    adapter: Any, reduction: Reduction, positions: str, inside: Inside
) -> Iterator[None]:
    """Replace ``generate`` and ``forward`` of the adapter's model while the context lasts.

    Calls that carry images or videos are encoded, reduced and spliced first, and the model runs on
    the short embedded prompt; ``generate`` still returns the original prompt in front of the new
    tokens. Other calls pass through untouched.
    """
    model = adapter.model
    calls = _Calls(adapter, reduction, positions, inside)
    own = {name: vars(model).get(name, _MISSING) for name in ("generate", "forward")}
    try:
        model.generate = calls.wrap_generate(model.generate)
        model.forward = calls.wrap_forward(model.forward)
        yield
    finally:
        try:
            with calls.turn:  # a call of another thread ends first
                calls.over.set()
                if inside is not None:
                    inside.end()
        finally:
            for name, value in own.items():
                if value is not _MISSING:
                    setattr(model, name, value)
                elif name in vars(model):
                    delattr(model, name)


@dataclass(frozen=True)
class _Calls:
    """The two wrapped methods and what they share."""

    adapter: Any
    reduction: Reduction
    positions: str
    inside: Inside
    running: list[Spliced] = field(default_factory=list)
    turn: Any = field(default_factory=RLock)
    """Held by the thread whose call is under way: what works in the model is shared."""
    over: Event = field(default_factory=Event)
    """Set once the context is left."""

    def wrap_forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        # functools.wraps keeps the signature, which generate() inspects.
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            with self.turn:
                return self._forward(original, args, kwargs)

        return forward

    def _forward(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        inputs = _by_name(original, args, kwargs)
        if not self._has_clips(inputs):
            return original(*args, **kwargs, **self._positions_after(inputs))
        spliced, rest = self._shorten(inputs)
        if (labels := rest.get("labels")) is not None:
            rest["labels"] = spliced.layout.take(labels, -100)
        with self._during(spliced):
            output = original(**rest)
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            setattr(cache, _PROMPT, spliced)
        return output

    def wrap_generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with self.turn:
                return self._generate(original, args, kwargs)

        return generate

    def _generate(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        inputs = _by_name(original, args, kwargs)
        if inputs.get("inputs") is not None:
            inputs["input_ids"] = inputs.pop("inputs")
        if not self._has_clips(inputs):
            self._refuse_second_turn(inputs)
            return original(*args, **kwargs)
        default = self.adapter.model.generation_config
        _refuse_decoding(inputs, default, self.inside is not None)
        prompt = inputs["input_ids"]
        _infer_mask(inputs, default)
        _refuse_right_padding(inputs.get("attention_mask"))
        with torch.no_grad():
            spliced, rest = self._shorten(inputs)
        short = spliced.layout.input_ids
        _lower_limits(rest, prompt.shape[1] - short.shape[1], default)
        with self._during(spliced):
            output = original(input_ids=short, **rest)
        if self.inside is not None:
            self.inside.end()
        return _restore_prompt(output, prompt, short.shape[1])

    def _has_clips(self, inputs: Mapping[str, Any]) -> bool:
        kinds = self.adapter.visual_inputs
        encoded = inputs.get("mm_encoder_outputs") or {}
        if any(encoded.get(kind) is not None for kind in kinds):
            raise CapabilityError("images and videos that are encoded beforehand cannot be reduced")
        if any(inputs.get(names[0]) is not None for names in kinds.values()):
            if self.over.is_set():
                raise CapabilityError("this call waited until its `with attach` block was left")
            return True
        if self.inside is not None and not self.running and not _continues(inputs):
            self.inside.end()  # a new conversation, without media
        return False

    def _refuse_second_turn(self, inputs: Mapping[str, Any]) -> None:
        ids = inputs.get("input_ids")
        if ids is None or not _continues(inputs):
            return
        placeholders = ids.new_tensor(list(self.adapter.token_ids.values()))
        if bool(torch.isin(ids, placeholders).any()):
            raise CapabilityError(
                "the cache of a reduced prompt is shorter than the prompt that came back; give "
                "generate the whole conversation again, media included, without a cache"
            )

    def _positions_after(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the positions of tokens that follow a prompt which kept its original ones.

        A model with plain positions would count on from the length of its cache.
        """
        spliced = getattr(inputs.get("past_key_values"), _PROMPT, None)
        if self.running or spliced is None or not _continues(inputs):
            return {}
        given = inputs.get("input_ids", inputs.get("inputs_embeds"))
        before = spliced.position_ids
        if before is None or before.ndim != 2 or inputs.get("position_ids") is not None:
            return {}
        n_after = inputs["past_key_values"].get_seq_length() - before.shape[1]
        steps = torch.arange(n_after + 1, n_after + 1 + given.shape[1], device=given.device)
        last = before.amax(1, keepdim=True).to(given.device)
        return {"position_ids": last.repeat_interleave(len(given) // len(last), 0) + steps}

    @contextmanager
    def _during(self, spliced: Spliced) -> Iterator[None]:
        """Pass the prompt's tokens to the stages inside the LLM."""
        if self.inside is not None:
            self.inside.begin(prompt_tokens(spliced))
        self.running.append(spliced)
        try:
            with self.adapter.during_call(spliced):
                yield
        except BaseException:
            if self.inside is not None:
                self.inside.end()  # lets go of a cache that is half full
            raise
        finally:
            self.running.pop()

    def _shorten(self, inputs: Mapping[str, Any]) -> tuple[Spliced, dict[str, Any]]:
        """Encode, reduce and splice; return the inputs of the model without images and videos."""
        _refuse(inputs)
        visual = {name for names in self.adapter.visual_inputs.values() for name in names}
        rest = {name: value for name, value in inputs.items() if name not in visual}
        clips = self.reduction.encode(inputs)
        reduced = self.reduction.reduce(clips)
        spliced = self.adapter.splice(inputs, clips, reduced, positions=self.positions)
        rest.pop("input_ids")
        device = spliced.inputs_embeds.device
        # The mask is always given: with gaps in the positions and no mask, transformers would take
        # the prompt for several packed sequences.
        rest["attention_mask"] = spliced.layout.attention_mask.to(device)
        rest["inputs_embeds"] = spliced.inputs_embeds
        for name in PER_TOKEN:
            if rest.get(name) is not None:
                rest[name] = spliced.layout.take(rest[name], 0)
        if spliced.position_ids is not None:
            rest["position_ids"] = spliced.position_ids.to(device)
        return spliced, rest


def _continues(inputs: Mapping[str, Any]) -> bool:
    """Return whether a call continues from a cache."""
    cache = inputs.get("past_key_values")
    return cache is not None and cache.get_seq_length() > 0


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a call's arguments by name."""
    if not args:
        return dict(kwargs)
    bound = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    return {**bound, **bound.pop("kwargs", {})}


def _refuse(inputs: Mapping[str, Any]) -> None:
    """Raise for inputs that describe the unreduced sequence and cannot be shortened."""
    if inputs.get("input_ids") is None:
        raise InputError("a call with an image or video needs input_ids: they say where it stands")
    for name in ("inputs_embeds", "position_ids"):
        if inputs.get(name) is not None:
            raise CapabilityError(f"{name} cannot be given together with images or videos")
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim != 2:
        raise CapabilityError(
            "attention_mask must be (rows, tokens) where images or videos are reduced"
        )
    ids = inputs["input_ids"]
    if ids.ndim != 2 or (mask is not None and mask.shape != ids.shape):
        raise InputError(
            "input_ids and attention_mask must be (rows, tokens), both alike, got shapes "
            f"{tuple(ids.shape)} and {None if mask is None else tuple(mask.shape)}"
        )
    if _continues(inputs):
        raise CapabilityError(
            "images and videos cannot be reduced in the middle of a cached conversation"
        )


def _infer_mask(inputs: dict[str, Any], default: Any) -> None:
    """Take padding ids for padding where no mask is given, as ``generate`` does by itself."""
    ids = inputs.get("input_ids")
    if inputs.get("attention_mask") is not None or not isinstance(ids, Tensor):
        return
    config = inputs.get("generation_config") or default
    pad, end = (
        inputs[name] if inputs.get(name) is not None else getattr(config, name, None)
        for name in ("pad_token_id", "eos_token_id")
    )
    ends = end if isinstance(end, list | tuple) else [end]
    if pad is not None and pad not in ends and bool((ids == pad).any()):
        inputs["attention_mask"] = (ids != pad).long()


def _refuse_right_padding(mask: Tensor | None) -> None:
    """Raise where new tokens would stand behind padding."""
    if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
        raise InputError("prompts are padded on the right; generate continues those padded left")


def _refuse_decoding(inputs: Mapping[str, Any], default: Any, inside: bool) -> None:
    """Raise for decoding that needs the prompt's token ids: the model gets embeddings."""
    config = inputs.get("generation_config") or default
    guidance = inputs.get("guidance_scale") or getattr(config, "guidance_scale", None)
    if inside and guidance not in (None, 1, 1.0):
        raise CapabilityError(
            "guidance_scale reads a second prompt beside the first, which cannot be used with "
            "stages inside the LLM"
        )
    for name in ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size"):
        if (inputs.get(name) or getattr(config, name, None)) is not None:
            raise CapabilityError(f"{name} cannot be used while images or videos are reduced")


def _lower_limits(inputs: dict[str, Any], saved: int, default: Any) -> None:
    """Lower limits that include the prompt by the tokens saved.

    Limits that count new tokens go before those that count the prompt too.
    """
    config = inputs.get("generation_config")
    if config is not None:
        inputs["generation_config"] = config = copy.deepcopy(config)
    for name, rival in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if inputs.get(name) is not None:
            inputs[name] -= saved
        elif config is not None and getattr(config, name, None) is not None:
            setattr(config, name, max(getattr(config, name) - saved, 0))
        elif getattr(default, name, None) and not any(
            each is not None
            for each in (inputs.get(rival), getattr(config, rival, None), getattr(default, rival))
        ):
            inputs[name] = max(getattr(default, name) - saved, 0)


def _restore_prompt(output: Any, prompt: Tensor, n_short: int) -> Any:
    """Put the original prompt in front of the new tokens: callers cut by its length."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    repeated = prompt.repeat_interleave(sequences.shape[0] // prompt.shape[0], 0)
    full = torch.cat((repeated.to(sequences.device), sequences[:, n_short:]), dim=1)
    if isinstance(output, Tensor):
        return full
    output.sequences = full
    return output
