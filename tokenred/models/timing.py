"""Time one answer of a model, part by part."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenred.types import Realised


@dataclass(frozen=True)
class Stopwatch:
    """Reads the clock after synchronising the device.

    Attributes
    ----------
    wait : returns when the device is idle
    clock : seconds
    """

    wait: Callable[[], None]
    clock: Callable[[], float] = perf_counter

    @classmethod
    def of(cls, device: torch.device, clock: Callable[[], float] = perf_counter) -> "Stopwatch":
        """Return the stopwatch for a device; a CPU needs no synchronisation."""
        if device.type == "cuda":
            return cls(lambda: torch.cuda.synchronize(device), clock)
        if device.type == "mps":
            return cls(torch.mps.synchronize, clock)
        return cls(lambda: None, clock)

    def ms(self) -> float:
        """Return the time now in milliseconds."""
        self.wait()
        return self.clock() * 1e3

    def time_ms(self, call: Callable[[], Any]) -> float:
        """Return the milliseconds that a call takes, until its work on the device is done."""
        start = self.ms()
        call()
        return self.ms() - start


@dataclass(frozen=True)
class TimedAnswer:
    """Times and token counts of one call of ``generate``.

    Attributes
    ----------
    ttft_ms : from the call to the first new token
    decode_ms : from the first new token to the last
    new_tokens : how many the model wrote
    prompt_tokens : tokens of the prompt that entered the LLM, text included
    encoder_ms : vision tower and projector, with the cues that the pipeline reads; None without
        a pipeline, as the two below
    reducer_ms : the whole reduction before the LLM, all clips
    stage_ms : stage -> its part of ``reducer_ms``
    realised : what the pipeline did to each clip
    layer_tokens : visual tokens that entered each layer, if the pipeline works inside the LLM
    """

    ttft_ms: float
    decode_ms: float
    new_tokens: int
    prompt_tokens: int
    encoder_ms: float | None = None
    reducer_ms: float | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    realised: tuple[Realised, ...] = ()
    layer_tokens: tuple[int, ...] = ()

    @property
    def prefill_ms(self) -> float | None:
        """The rest of ``ttft_ms``: splicing, the LLM's prefill, the first token."""
        if self.encoder_ms is None or self.reducer_ms is None:
            return None
        return self.ttft_ms - self.encoder_ms - self.reducer_ms

    @property
    def decode_tokens_per_s(self) -> float | None:
        """New tokens a second after the first one; None if there is no second one."""
        if self.new_tokens < 2 or self.decode_ms <= 0:
            return None
        return (self.new_tokens - 1) / self.decode_ms * 1e3


class Ticks:
    """Records the time of every new token of ``generate``; never stops it.

    A streamer would do too, but on some devices it hears of a token one step late.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.at_ms: list[float] = []
        self.prompt_tokens = 0
        self._stopwatch = stopwatch

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Any, **_: Any
    ) -> Bool[Tensor, "rows"]:
        """Note the time; no row is to stop."""
        self.at_ms.append(self._stopwatch.ms())
        if len(self.at_ms) == 1:
            self.prompt_tokens = input_ids.shape[1] - 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class PartTimes:
    """An observer of a call that adds up the time of its parts.

    Attributes
    ----------
    encoder_ms, reducer_ms : of the vision tower, and of all clips' reductions
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.encoder_ms = self.reducer_ms = 0.0
        self._stopwatch = stopwatch

    def encoding(self) -> AbstractContextManager[None]:
        """Time the vision tower."""
        return self._adding_to("encoder_ms")

    def reducing(self) -> AbstractContextManager[None]:
        """Time the reduction of one clip."""
        return self._adding_to("reducer_ms")

    @contextmanager
    def _adding_to(self, part: str) -> Iterator[None]:
        start = self._stopwatch.ms()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + self._stopwatch.ms() - start)
