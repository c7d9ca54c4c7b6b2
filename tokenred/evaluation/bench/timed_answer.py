"""One answer of a model, timed part by part as its user would wait for it."""

from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.models import attach
from tokenred.pipeline import Pipeline
from tokenred.types import Realised


@dataclass(frozen=True)
class Stopwatch:
    """Reads the clock, once the device has done everything that it was told to do.

    Attributes
    ----------
    wait : returns when the device is idle
    clock : seconds
    """

    wait: Callable[[], None]
    clock: Callable[[], float] = perf_counter

    @classmethod
    def of(cls, device: torch.device, clock: Callable[[], float] = perf_counter) -> "Stopwatch":
        """Return the one for a device; a CPU is never behind."""
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
    """What one call of ``generate`` took, and what the model read.

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
        """The rest of ``ttft_ms``: putting the prompt together, the LLM, the first token."""
        if self.encoder_ms is None or self.reducer_ms is None:
            return None
        return self.ttft_ms - self.encoder_ms - self.reducer_ms

    @property
    def decode_tokens_per_s(self) -> float | None:
        """New tokens a second after the first one; None if there is no second one."""
        if self.new_tokens < 2 or self.decode_ms <= 0:
            return None
        return (self.new_tokens - 1) / self.decode_ms * 1e3


class Asker:
    """Asks one model one question, in the same way every time.

    Parameters
    ----------
    loaded : the model
    inputs : of ``generate``, already on the device
    frame_times : (frames,) seconds, for strategies that read them
    new_tokens : the answer has exactly this many, whatever the model would like
    """

    def __init__(
        self,
        loaded: Any,
        inputs: Mapping[str, Tensor],
        frame_times: Float[Tensor, "frames"] | None,
        new_tokens: int,
        stopwatch: Stopwatch,
    ) -> None:
        self._model, self._adapter = loaded.model, loaded.adapter
        self._inputs, self._new_tokens = dict(inputs), new_tokens
        self._times = None if frame_times is None else [frame_times.to(loaded.plan.device)]
        self._stopwatch = stopwatch

    def __call__(self, pipeline: Pipeline | None) -> TimedAnswer:
        """Ask once, reduced by a pipeline; None leaves the model as it is, without tokenred."""
        ticks = _Ticks(self._stopwatch)
        if pipeline is None:
            return self._generate(ticks)
        encoder, reducer = _Laps(self._stopwatch), _Laps(self._stopwatch)
        adapter = copy(self._adapter)
        adapter.encode = encoder.around(partial(adapter.encode, frame_times=self._times))
        timed = _TimedPipeline(pipeline, reducer)
        with attach(self._model, timed, adapter=adapter) as session:
            answer = self._generate(ticks)
            stages: Counter[str] = Counter()
            for each in session.realised:
                for stage in each.stages:
                    stages[stage.name] += stage.ms  # type: ignore[assignment]
            return TimedAnswer(
                answer.ttft_ms,
                answer.decode_ms,
                answer.new_tokens,
                answer.prompt_tokens,
                encoder.ms,
                reducer.ms,
                dict(stages),
                tuple(session.realised),
                next(iter(session.layer_tokens), ()),
            )

    def _generate(self, ticks: "_Ticks") -> TimedAnswer:
        n = self._new_tokens
        start = self._stopwatch.ms()
        self._model.generate(
            **self._inputs,
            max_new_tokens=n,
            min_new_tokens=n,
            do_sample=False,
            num_beams=1,
            stopping_criteria=[ticks],
        )
        first, last = ticks.at_ms[0], ticks.at_ms[-1]
        return TimedAnswer(first - start, last - first, len(ticks.at_ms), ticks.prompt_tokens)


class _Ticks:
    """Looks at the clock whenever ``generate`` has a new token; stops nothing.

    A streamer would do too, but on some devices it hears of a token one step late.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.at_ms: list[float] = []
        self.prompt_tokens = 0
        self._stopwatch = stopwatch

    def __call__(
        self, input_ids: Int[Tensor, "rows tokens"], scores: Any, **_: Any
    ) -> Bool[Tensor, "rows"]:
        self.at_ms.append(self._stopwatch.ms())
        if len(self.at_ms) == 1:
            self.prompt_tokens = input_ids.shape[1] - 1
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Laps:
    """Adds up the time of the calls of a function."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.ms = 0.0
        self._stopwatch = stopwatch

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._stopwatch.ms()
            try:
                return function(*args, **kwargs)
            finally:
                self.ms += self._stopwatch.ms() - start

        return timed


class _TimedPipeline:
    """A pipeline whose run is timed."""

    def __init__(self, pipeline: Pipeline, laps: _Laps) -> None:
        self.needs, self.inside_llm = pipeline.needs, pipeline.inside_llm
        self.run = laps.around(pipeline.run)
