"""Run jobs of an ablation: encode a sample once, then reduce and answer it under each row.

A worker holds a task and a model, and turns jobs into results that are ready to store. The executor
decides where it runs: in this process or on another machine.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from tokenred.config import reads_question
from tokenred.errors import ConfigError, InputError, TokenredError
from tokenred.evaluation.ablation import Row
from tokenred.evaluation.feature_cache import FeatureCache
from tokenred.evaluation.model import Answer, EvaluatedModel, VideoLlm
from tokenred.evaluation.store import Cost, Failure, Origin, StoredAnswer
from tokenred.evaluation.task import Question, Sample, Task
from tokenred.pipeline import Pipeline, load_pipeline
from tokenred.types import ReducedTokens


@dataclass(frozen=True)
class PlannedRow:
    """A row with a frozen budget, and the origin under which its results are stored."""

    row: Row
    origin: Origin

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline of the row, built when it is first asked for."""
        return Pipeline(self.row.config)

    def __getstate__(self) -> dict[str, Any]:
        return {"row": self.row, "origin": self.origin}  # another process builds its own pipeline


@dataclass(frozen=True)
class Job:
    """One sample, by its index in the task and its id, and the rows that have no result for it."""

    index: int
    sample_id: str
    cells: tuple[PlannedRow, ...]


@dataclass(frozen=True)
class CellResult:
    """The answers of one row about one sample, ready to store."""

    origin: Origin
    sample_id: str
    answers: tuple[StoredAnswer, ...]
    cost: Cost


Result = CellResult | Failure
_FAILURES = (TokenredError, torch.OutOfMemoryError)


class Worker:
    """Runs jobs with one task and one model.

    Parameters
    ----------
    keep_going : whether a row that fails on a sample becomes a ``Failure`` instead of an error
    """

    def __init__(self, task: Task, model: EvaluatedModel, keep_going: bool = False) -> None:
        self.task, self.model, self.keep_going = task, model, keep_going
        self._vanilla = load_pipeline("vanilla")

    def results(self, job: Job) -> Iterator[Result]:
        """Yield the result of each row of a job.

        Rows that see the same frames share one encoding, and all are compared with the answers of
        the unreduced model.

        Raises
        ------
        TokenredError
            If the sample cannot be had or a row fails, unless the worker keeps going.
        """
        sample_id = job.sample_id
        try:
            with torch.no_grad():
                sample = self.task.sample(job.index)
                whole, encoder_ms = self._encode(sample, job.cells, None)
                unreduced = self._answers(sample, whole, self._vanilla, 0)
        except _FAILURES as error:
            yield from self._failed(error, f"sample '{sample_id}'", sample_id, job.cells)
            return
        for n_frames in sorted({cell.row.frames or 0 for cell in job.cells}):
            cells = [cell for cell in job.cells if (cell.row.frames or 0) == n_frames]
            try:
                seen, encoded, ms = sample, whole, encoder_ms
                if n_frames:
                    seen = sample.take(n_frames)
                    with torch.no_grad():
                        encoded, ms = self._encode(seen, cells, n_frames)
            except _FAILURES as error:
                yield from self._failed(error, f"sample '{sample_id}'", sample_id, cells)
                continue
            for cell in cells:
                try:
                    with torch.no_grad():
                        result = self._cell(cell, seen, encoded, unreduced, ms)
                except _FAILURES as error:
                    place = f"row '{cell.row.label}', sample '{sample_id}'"
                    yield from self._failed(error, place, sample_id, [cell])
                else:
                    yield result

    def _failed(
        self, error: Exception, place: str, sample_id: str, cells: Sequence[PlannedRow]
    ) -> Iterator[Failure]:
        if isinstance(error, ConfigError):
            named: TokenredError = error.below([place])
        elif isinstance(error, TokenredError):
            named = type(error)(f"{place}: {error}")
        else:
            named = TokenredError(f"{place}: out of memory; try fewer frames")
        if not self.keep_going:
            raise named from error
        yield from (Failure(cell.origin, sample_id, str(named)) for cell in cells)

    def _encode(
        self, sample: Sample, cells: Sequence[PlannedRow], n_frames: int | None
    ) -> tuple[Any, float]:
        needs = [cell.pipeline.needs for cell in cells if (cell.row.frames or None) == n_frames]
        start = time.perf_counter()
        encoded = self.model.encode(sample, frozenset().union(*needs))
        return encoded, (time.perf_counter() - start) * 1e3

    def _answers(
        self, sample: Sample, encoded: Any, pipeline: Pipeline, seed: int
    ) -> tuple[ReducedTokens, list[Answer], float]:
        """Return reduction, answers, and milliseconds for each.

        A pipeline that reads the question reduces the video for each anew; costs are means then.
        """
        if not reads_question(pipeline.needs):
            return self._answers_at_once(sample, encoded, pipeline, seed)
        parts = [
            self._answers_at_once(
                replace(sample, questions=(question,)), encoded.about(n), pipeline, seed
            )
            for n, question in enumerate(sample.questions)
        ]
        reduced, answers, ms = zip(*parts)
        return _mean(reduced), [one for each in answers for one in each], sum(ms) / len(ms)

    def _answers_at_once(
        self, sample: Sample, encoded: Any, pipeline: Pipeline, seed: int
    ) -> tuple[ReducedTokens, list[Answer], float]:
        reduced = self.model.reduce(encoded, pipeline, sample_generator(seed, sample.id))
        start = time.perf_counter()
        answers = self.model.answers(
            encoded,
            reduced,
            sample,
            pipeline,
            self.task.answering,
            self.task.max_new_tokens,
        )
        return reduced, answers, (time.perf_counter() - start) * 1e3 / len(answers)

    def _cell(
        self,
        cell: PlannedRow,
        sample: Sample,
        encoded: Any,
        unreduced: tuple[ReducedTokens, list[Answer], float],
        encoder_ms: float,
    ) -> CellResult:
        seed = cell.row.config.seed
        reduced, answers, ms = unreduced
        if cell.row.frames is not None or cell.pipeline.config != self._vanilla.config:
            reduced, answers, ms = self._answers(sample, encoded, cell.pipeline, seed)
        stored = tuple(
            self._stored(*each)
            for each in zip(sample.questions, answers, unreduced[1], strict=True)
        )
        realised = reduced.realised
        cost = Cost(
            frame_indices=sample.frame_indices,
            n_tokens=realised.n_tokens,
            newline_tokens=realised.newline_tokens,
            retention_ratio=realised.retention_ratio,
            reducer_ms=realised.reducer_ms,
            answer_ms=ms,
            encoder_ms=encoder_ms,
            n_iter=max((stage.n_iter for stage in realised.stages), default=0),
            residual=max((stage.residual for stage in realised.stages), default=0.0),
            seed=seed,
        )
        return CellResult(cell.origin, sample.id, stored, cost)

    def _stored(self, question: Question, answer: Answer, whole: Answer) -> StoredAnswer:
        said, beside = chosen(question, answer), chosen(question, whole)
        return StoredAnswer(
            kind=question.kind,
            answer=said,
            score=self.task.score(question, said),
            option_scores=answer.scores,
            layer_tokens=answer.layer_tokens,
            agrees=said == beside,
            kl_nats=kl_nats(whole, answer),
            hidden_distance=hidden_distance(whole, answer),
        )


def _mean(reduced: Sequence[ReducedTokens]) -> ReducedTokens:
    """Return the first reduction with the mean of the tokens and times of all."""
    each = [one.realised for one in reduced]
    counts = {
        name: round(sum(getattr(one, name) for one in each) / len(each))
        for name in ("n_tokens", "newline_tokens")
    }
    realised = replace(
        each[0],
        **counts,
        reducer_ms=sum(one.reducer_ms for one in each) / len(each),
        stages=tuple(stage for one in each for stage in one.stages),
    )
    return replace(reduced[0], realised=realised)


class InProcess:
    """Executor that runs all jobs in this process, one after the other."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results of every job."""
        for job in jobs:
            yield from self.worker.results(job)


@dataclass(frozen=True)
class ExecutorRequest:
    """Settings that ``tokenred ablate`` passes to an executor.

    Attributes
    ----------
    model : loads when it is first used
    keep_going : whether a row that fails on a sample becomes a ``Failure`` instead of an error
    address : of a cluster that runs
    workers : processes that hold the model
    threads : CPU threads of each
    cache : in front of the vision tower
    """

    task: Task
    model: VideoLlm
    keep_going: bool = False
    address: str | None = None
    workers: int = 1
    threads: int = 1
    cache: FeatureCache | None = None


def in_process(request: ExecutorRequest) -> InProcess:
    """Return the default executor of ``tokenred ablate``."""
    return InProcess(Worker(request.task, request.model, request.keep_going))


def chosen(question: Question, answer: Answer) -> str:
    """Return what a model answered: the likeliest option, the option that it wrote, or its text.

    A written answer is an option if it is the same without case and punctuation, starts with it (of
    several the longest), or holds it and no other one; else it is no option, and wrong.

    Raises
    ------
    InputError
        If a log-likelihood is not a number.
    """
    if answer.scores:
        if not all(score <= 0 for score in answer.scores.values()):  # NaN fails as well
            raise InputError(f"the model's scores are not finite for '{question.prompt}'")
        return max(question.options, key=lambda option: answer.scores[option])
    if not question.options:
        return answer.text
    words, options = _words(answer.text), {option: _words(option) for option in question.options}
    options = {name: option for name, option in options.items() if option}
    begins = {name: option for name, option in options.items() if words[: len(option)] == option}
    longest = max(map(len, begins.values()), default=0)
    holds = (
        name
        for name, option in options.items()
        if any(words[i : i + len(option)] == option for i in range(len(words)))
    )
    for found in (
        [name for name, option in options.items() if option == words],
        [name for name, option in begins.items() if len(option) == longest],
        list(holds),
    ):
        if len(found) == 1:
            return found[0]
    return answer.text


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def kl_nats(whole: Answer, answer: Answer) -> float | None:
    """Return KL(unreduced || reduced) of the next-token distributions; None if not known."""
    if whole.log_probs is None or answer.log_probs is None:
        return None
    p = whole.log_probs.double()
    terms = p.exp() * (p - answer.log_probs.double())
    return max(0.0, float(terms.nan_to_num(0.0).sum()))  # 0 * (-inf - -inf) is 0


def hidden_distance(whole: Answer, answer: Answer) -> float | None:
    """Return 1 - cosine of the states that the next token is read from; None if not known."""
    if whole.state is None or answer.state is None:
        return None
    cosine = torch.nn.functional.cosine_similarity(whole.state.double(), answer.state.double(), 0)
    return max(0.0, float(1 - cosine))


def sample_generator(seed: int, sample_id: str) -> torch.Generator:
    """Return the generator of one sample: the same in every process and on every machine."""
    digest = hashlib.sha256(f"{seed} {sample_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
