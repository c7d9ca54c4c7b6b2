"""Runs an ablation: every sample is encoded once, and each row reduces it and answers from it."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from tokenred.errors import ConfigError, InputError, TokenredError
from tokenred.evaluation.ablation import Row
from tokenred.evaluation.model import EvaluatedModel, Reply
from tokenred.evaluation.provenance import code_version
from tokenred.evaluation.store import Answer, Cost, Origin, Store
from tokenred.evaluation.task import Question, Sample, Task
from tokenred.pipeline import Pipeline, calibrate
from tokenred.types import ReducedTokens, VisualTokens


@dataclass(frozen=True)
class PlannedRow:
    """A row with a frozen budget, and the origin under which its results are stored."""

    row: Row
    pipeline: Pipeline
    origin: Origin


@dataclass(frozen=True)
class Progress:
    """How far a run is. A cell is one row on one sample."""

    n_samples: int
    samples_done: int
    cells_computed: int
    cells_reused: int


def plan(rows: Iterable[Row], task: Task, model: EvaluatedModel, store: Store) -> list[PlannedRow]:
    """Check every row before any work, solve calibrated budgets, and name where results go.

    Calibration reads samples that no evaluation reaches, and is remembered in the store.

    Raises
    ------
    CapabilityError
        If the model cannot give a cue that a row needs.
    BudgetError
        If a calibrated budget is out of reach.
    """
    planned = []
    videos = _CalibrationVideos(task, model)
    for row in rows:
        with _named(f"row '{row.label}'"):
            model.check(Pipeline(row.config).needs)
            row = _calibrated(row, _origin(row, task, model), videos, store)
        origin = _origin(row, task, model)
        store.add_config(origin.config_id, row.canonical)
        planned.append(PlannedRow(row, Pipeline(row.config), origin))
    return planned


@torch.inference_mode()
def run(
    planned: Sequence[PlannedRow],
    task: Task,
    model: EvaluatedModel,
    store: Store,
    n_samples: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Answer all questions of the first ``n_samples`` samples under every row.

    What is stored is not computed again, and a sample that misses nothing is not encoded. Every
    cell is stored as soon as it is there, so a run may be stopped at any time.

    Raises
    ------
    TokenredError
        If a row fails on a sample, or the store cannot be written; both are named.
    """
    by_origin = {cell.origin: cell for cell in planned}
    progress = Progress(n_samples, 0, 0, 0)
    for index in range(n_samples):
        sample_id = task.sample_id(index)
        done = store.done(sample_id, by_origin)
        missing = [cell for origin, cell in by_origin.items() if origin not in done]
        if missing:
            for cell in _cells(task.sample(index), model, missing):
                store.write(*cell)
        progress = Progress(
            n_samples,
            index + 1,
            progress.cells_computed + len(missing),
            progress.cells_reused + len(done),
        )
        on_progress(progress)
    return progress


def sample_generator(seed: int, sample_id: str) -> torch.Generator:
    """Return the generator of one sample: the same in every process and on every machine."""
    digest = hashlib.sha256(f"{seed} {sample_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def frame_subset(n_frames: int, n_kept: int | None) -> list[int]:
    """Return ``n_kept`` evenly spaced frame indices, first and last included (all if None)."""
    if n_kept is None:
        return list(range(n_frames))
    if n_kept > n_frames:
        raise ConfigError(f"{n_kept} frames asked for, the clip has {n_frames}", ["frames"])
    if n_kept == 1:
        return [n_frames // 2]
    return [round(i * (n_frames - 1) / (n_kept - 1)) for i in range(n_kept)]


def _cells(
    sample: Sample, model: EvaluatedModel, missing: Sequence[PlannedRow]
) -> Iterator[tuple[Origin, str, list[Answer], Cost]]:
    """Encode a sample once and yield what each missing row makes of it, ready to store."""
    needs = frozenset().union(*(cell.pipeline.needs for cell in missing))
    start = time.perf_counter()
    tokens = model.encode(sample, needs)
    encoder_ms = (time.perf_counter() - start) * 1e3
    for cell in missing:
        with _named(f"row '{cell.row.label}', sample '{sample.id}'"):
            answers, cost = _compute(cell, sample, model, tokens, encoder_ms)
        yield cell.origin, sample.id, answers, cost


def _compute(
    cell: PlannedRow,
    sample: Sample,
    model: EvaluatedModel,
    tokens: VisualTokens,
    encoder_ms: float,
) -> tuple[list[Answer], Cost]:
    seed = cell.row.config.seed
    frames = frame_subset(len(sample.frame_indices), cell.row.frames)
    generator = sample_generator(seed, sample.id)
    reduced = model.reduce(_take(tokens, frames), cell.pipeline, generator)
    replies = model.replies(reduced, sample.questions, cell.pipeline.inside_llm)
    answers = [_answer(*pair) for pair in zip(sample.questions, replies, strict=True)]
    indices = tuple(sample.frame_indices[i] for i in frames)
    return answers, _cost(reduced, indices, encoder_ms, seed)


def _answer(question: Question, reply: Reply) -> Answer:
    scores = reply.scores
    if not all(score <= 0 for score in scores.values()):  # NaN fails as well
        raise InputError(f"the model's scores are not finite for '{question.prompt}'")
    best = max(question.options, key=lambda option: scores[option])
    return Answer(question.kind, best, best == question.answer, scores, reply.layer_tokens)


def _cost(
    reduced: ReducedTokens, frame_indices: tuple[int, ...], encoder_ms: float, seed: int
) -> Cost:
    realised = reduced.realised
    return Cost(
        frame_indices=frame_indices,
        n_tokens=realised.n_tokens,
        newline_tokens=realised.newline_tokens,
        retention_ratio=realised.retention_ratio,
        reducer_ms=realised.reducer_ms,
        encoder_ms=encoder_ms,
        n_iter=max((stage.n_iter for stage in realised.stages), default=0),
        residual=max((stage.residual for stage in realised.stages), default=0.0),
        seed=seed,
    )


def _take(tokens: VisualTokens, frames: Sequence[int]) -> VisualTokens:
    """Return some frames of a video. Encoders that see one frame at a time make this exact."""
    if len(frames) == len(tokens.features):
        return tokens
    index = torch.tensor(frames, device=tokens.features.device)
    return replace(
        tokens,
        features=tokens.features[index],
        keep=tokens.keep[index],
        frame_times=tokens.frame_times[index],
        cues={name: cue[index] for name, cue in tokens.cues.items()},
    )


def _origin(row: Row, task: Task, model: EvaluatedModel) -> Origin:
    return Origin(row.config_id, model.revision, task.fingerprint, code_version(row.config))


class _CalibrationVideos:
    """Encodes the held-out samples when a row asks for them, once for each set of cues."""

    def __init__(self, task: Task, model: EvaluatedModel) -> None:
        self._task, self._model = task, model
        self._videos: dict[frozenset[str], list[VisualTokens]] = {}

    def __call__(self, needs: frozenset[str], n_frames: int | None) -> list[VisualTokens]:
        if needs not in self._videos:
            samples = (self._task.sample(index) for index in self._task.calibration)
            with torch.inference_mode():
                self._videos[needs] = [self._model.encode(sample, needs) for sample in samples]
        return [
            _take(video, frame_subset(len(video.features), n_frames))
            for video in self._videos[needs]
        ]


def _calibrated(row: Row, origin: Origin, videos: _CalibrationVideos, store: Store) -> Row:
    """Return the row with its knob solved; other rows as they are."""
    if row.config.budget.mode != "calibrated":
        return row
    known = store.calibrated(origin)
    if known is None:
        known = calibrate(row.config, videos(Pipeline(row.config).needs, row.frames)).to_dict()
        store.add_calibrated(origin, known)
    return replace(row, config=type(row.config).model_validate(known))


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say in which row and sample an error arose."""
    try:
        yield
    except ConfigError as error:
        raise error.below([place]) from error
    except TokenredError as error:
        raise type(error)(f"{place}: {error}") from error
