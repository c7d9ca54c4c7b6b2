"""Measure pipelines on a model in interleaved rounds: time, memory and FLOPs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from tokenred.accounting import LlmShape, prefill_flops, schedule_of, schedule_text
from tokenred.errors import ConfigError, TokenredError
from tokenred.evaluation.ablation import expand_rows
from tokenred.evaluation.bench.environment import Environment, Noise
from tokenred.evaluation.bench.peak_memory import PeakMemory
from tokenred.models.loading.memory import memory_errors
from tokenred.models.timing import TimedAnswer
from tokenred.pipeline import Pipeline, load_config

VANILLA, UNATTACHED = "vanilla", "unattached"
"""The unreduced model with tokenred around it, and the model by itself. Both are in every run."""

Speed = Literal["faster", "slower", "not told apart"]
Ask = Callable[[Pipeline | None], TimedAnswer]


@dataclass(frozen=True)
class Spread:
    """Median and spread of repeated measurements."""

    median: float
    min: float
    p25: float
    p75: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum up at least one value; a quartile between two values is interpolated."""
        shares = torch.tensor([0.5, 0.0, 0.25, 0.75, 1.0], dtype=torch.float64)
        return cls(*torch.tensor(values, dtype=torch.float64).quantile(shares).tolist())


@dataclass(frozen=True)
class Candidate:
    """A pipeline to measure, or None for the model by itself.

    ``retention`` is the budget that was asked for; None for a pipeline at its own.
    """

    label: str
    pipeline: Pipeline | None
    retention: float | None = None


def candidates(
    sources: Sequence[str],
    retentions: Sequence[float] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Candidate]:
    """Return the candidates: the model by itself, ``vanilla``, then the pipelines in order.

    Parameters
    ----------
    sources : names of presets, or paths of YAML files
    retentions : budgets of each pipeline that has one, its own by default; pipelines that keep
        everything before the LLM appear once
    overrides : dotted paths that change every pipeline but ``vanilla``

    Raises
    ------
    ConfigError
        If a pipeline is unknown or not valid.
    """
    found = {"": Candidate(UNATTACHED, None)}
    for source in dict.fromkeys([VANILLA, *sources]):
        changes = {} if source == VANILLA else dict(overrides or {})
        try:
            rows = list(expand_rows(source, partial(load_config, source), changes, retentions))
            pipelines = [Pipeline(row.config) for row in rows]
        except ConfigError as error:
            raise ConfigError(f"pipeline '{source}': {error}") from None
        for row, pipeline in zip(rows, pipelines):
            label = row.config.name
            if row.retention is not None:
                label = f"{label} {100 * row.retention:g} %"
            if label in {each.label for each in found.values()}:
                label = f"{label} ({row.config_id})"
            found.setdefault(row.config_id, Candidate(label, pipeline, row.retention))
    return list(found.values())


@dataclass
class Rounds:
    """Measurements, round by round.

    Attributes
    ----------
    answers : label -> one timed answer for each counted round
    matmul_ms : the fixed matmul, before every answer that counts
    n_rounds : whole rounds that count
    failures : label -> why it could not be measured
    stopped : whether the user ended it early; only whole rounds count
    """

    answers: dict[str, list[TimedAnswer]] = field(default_factory=dict)
    matmul_ms: list[float] = field(default_factory=list)
    n_rounds: int = 0
    failures: dict[str, TokenredError] = field(default_factory=dict)
    stopped: bool = False


def measure(
    ask: Ask,
    found: Sequence[Candidate],
    *,
    repeats: int,
    warmup: int,
    matmul_ms: Callable[[], float],
    on_round: Callable[[], None] = lambda: None,
) -> Rounds:
    """Time every candidate once a round, in alternating order: A B C, C B A, ...

    So drift of the machine affects all of them equally. The first ``warmup`` rounds are dropped. A
    candidate that fails is left out from then on.

    Raises
    ------
    TokenredError
        If the unreduced model fails: there is nothing to compare with.
    """
    rounds = Rounds({candidate.label: [] for candidate in found})
    for number in range(warmup + repeats):
        try:
            turn = found[:: -1 if number % 2 else 1]
            answers, times = _round(ask, turn, rounds.failures, matmul_ms)
        except KeyboardInterrupt:
            if not rounds.n_rounds:
                raise
            rounds.stopped = True
            break
        if number >= warmup:
            for label, answer in answers.items():
                rounds.answers[label].append(answer)
            rounds.matmul_ms += times
            rounds.n_rounds += 1
        on_round()
    for label in rounds.failures:
        del rounds.answers[label]
    return rounds


def _round(
    ask: Ask,
    found: Sequence[Candidate],
    failures: dict[str, TokenredError],
    matmul_ms: Callable[[], float],
) -> tuple[dict[str, TimedAnswer], list[float]]:
    answers, times = {}, []
    for candidate in found:
        if candidate.label in failures:
            continue
        times.append(matmul_ms())
        try:
            with memory_errors("try fewer --frames"):
                answers[candidate.label] = ask(candidate.pipeline)
        except TokenredError as error:
            if candidate.label in (VANILLA, UNATTACHED):
                raise
            failures[candidate.label] = error
    return answers, times


@dataclass(frozen=True)
class StageCost:
    """One stage before the LLM: milliseconds, and tokens left after it."""

    name: str
    kind: str
    ms: Spread
    n_tokens: int


@dataclass(frozen=True)
class PipelineCost:
    """What one pipeline costs.

    Attributes
    ----------
    config_id : of the pipeline; None for the model by itself
    needs : cues that the vision tower is asked for
    encoder_ms, reducer_ms, prefill_ms : the parts of ``ttft_ms``; None for the model by itself
    decode_tokens_per_s : None if a single token was generated
    ttft_share : time to first token / vanilla's of the same round
    speed : against vanilla; ``faster`` and ``slower`` in three rounds of four at least
    n_tokens, vanilla_tokens, newline_tokens : visual tokens that enter the LLM; None for the model
        by itself
    layer_tokens : visual tokens that entered each layer, if the pipeline works inside the LLM
    schedule : layers x visual tokens, as ``tokenred flops --schedule`` reads it
    prefill_flops, flops_share : by the named formula, absolute and relative to vanilla; None where
        it does not fit the LLM
    fewer_flops_not_faster : FLOPs fell against vanilla, and the time to the first token did not
    """

    label: str
    retention: float | None
    config_id: str | None
    needs: tuple[str, ...]
    encoder_ms: Spread | None
    reducer_ms: Spread | None
    stages: tuple[StageCost, ...]
    prefill_ms: Spread | None
    ttft_ms: Spread
    decode_tokens_per_s: Spread | None
    memory: PeakMemory | None
    prompt_tokens: int
    n_tokens: int | None
    vanilla_tokens: int | None
    newline_tokens: int | None
    layer_tokens: tuple[int, ...]
    schedule: str | None
    prefill_flops: int | None
    flops_share: float | None
    ttft_share: Spread
    speed: Speed
    fewer_flops_not_faster: bool


@dataclass(frozen=True)
class Bench:
    """The result of one run of ``tokenred bench``.

    Attributes
    ----------
    media : the video or image that was measured
    media_kind : ``video`` or ``image``
    rounds, warmup : rounds that count, and rounds that were dropped before them
    formula : of the FLOPs
    memory_method : how memory was measured; None where it cannot be
    failures : label -> why it could not be measured
    remarks : notes
    """

    model: str
    revision: str | None
    model_class: str
    media: str
    media_kind: str
    n_frames: int
    question: str
    new_tokens: int
    rounds: int
    warmup: int
    formula: str
    memory_method: str | None
    environment: Environment
    noise: Noise
    pipelines: tuple[PipelineCost, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def costs(
    found: Sequence[Candidate],
    rounds: Rounds,
    memory: Mapping[str, PeakMemory | None],
    shape: LlmShape | None,
    formula: str = "paper",
) -> tuple[PipelineCost, ...]:
    """Return one cost for each candidate that did not fail.

    Parameters
    ----------
    memory : label -> peak; a label may be missing
    shape : sizes of the LLM; None if no formula fits it
    """
    vanilla = rounds.answers[VANILLA]
    return tuple(
        _cost(each, rounds.answers[each.label], vanilla, memory.get(each.label), shape, formula)
        for each in found
        if each.label in rounds.answers
    )


def _cost(
    candidate: Candidate,
    answers: Sequence[TimedAnswer],
    vanilla: Sequence[TimedAnswer],
    memory: PeakMemory | None,
    shape: LlmShape | None,
    formula: str,
) -> PipelineCost:
    pipeline, last = candidate.pipeline, answers[-1]
    ratios = [one.ttft_ms / whole.ttft_ms for one, whole in zip(answers, vanilla, strict=True)]
    share = Spread.of(ratios)
    speed = judge(share)
    schedule = flops = flops_share = None
    if pipeline is not None and shape is not None:
        entering, full = (_schedule(each, shape.n_layers) for each in (last, vanilla[-1]))
        schedule, flops = schedule_text(entering), prefill_flops(entering, shape, formula).total
        flops_share = flops / prefill_flops(full, shape, formula).total

    def total(name: str) -> int | None:
        return sum(getattr(each, name) for each in last.realised) if pipeline else None

    return PipelineCost(
        label=candidate.label,
        retention=candidate.retention,
        config_id=None if pipeline is None else pipeline.config.config_id,
        needs=() if pipeline is None else tuple(sorted(pipeline.needs)),
        encoder_ms=_spread(each.encoder_ms for each in answers),
        reducer_ms=_spread(each.reducer_ms for each in answers),
        stages=_stages(answers),
        prefill_ms=_spread(each.prefill_ms for each in answers),
        ttft_ms=Spread.of([each.ttft_ms for each in answers]),
        decode_tokens_per_s=_spread(each.decode_tokens_per_s for each in answers),
        memory=memory,
        prompt_tokens=last.prompt_tokens,
        n_tokens=total("n_tokens"),
        vanilla_tokens=total("vanilla_tokens"),
        newline_tokens=total("newline_tokens"),
        layer_tokens=last.layer_tokens,
        schedule=schedule,
        prefill_flops=flops,
        flops_share=flops_share,
        ttft_share=share,
        speed=speed,
        fewer_flops_not_faster=flops_share is not None and flops_share < 1 and speed != "faster",
    )


def judge(ttft_share: Spread) -> Speed:
    """Return whether a pipeline is faster than vanilla, from its share of vanilla's time per round.

    A difference that lies within the middle half of the rounds is none: ``faster`` says that three
    rounds of four were. A pipeline that is as fast as vanilla passes for faster by chance in about
    1 of 100 runs of 20 rounds, in 7 of 100 of 10 rounds, and in 19 of 100 of 5.
    """
    if ttft_share.p75 < 1:
        return "faster"
    return "slower" if ttft_share.p25 > 1 else "not told apart"


def _spread(values: Iterator[float | None]) -> Spread | None:
    """Sum up values that are all there, or none of them."""
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _schedule(answer: TimedAnswer, n_layers: int) -> tuple[int, ...]:
    kept = sum(each.n_tokens for each in answer.realised)
    return schedule_of(list(answer.layer_tokens) or kept, n_layers)


def _stages(answers: Sequence[TimedAnswer]) -> tuple[StageCost, ...]:
    reports = [each.stages for each in answers[-1].realised]
    return tuple(
        StageCost(
            clips[0].name,
            clips[0].kind,
            Spread.of([each.stage_ms[clips[0].name] for each in answers]),
            sum(each.n_tokens for each in clips),
        )
        for clips in zip(*reports)
    )
