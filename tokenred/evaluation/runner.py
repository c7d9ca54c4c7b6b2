"""Run an ablation: encode every sample once, then reduce and answer it under each row."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from tokenred.config import reads_question
from tokenred.errors import ConfigError, TokenredError
from tokenred.evaluation.ablation import Row
from tokenred.evaluation.model import EvaluatedModel
from tokenred.evaluation.provenance import code_version
from tokenred.evaluation.store import Failure, Origin, Store
from tokenred.evaluation.task import Sample, Task
from tokenred.evaluation.worker import Job, PlannedRow, Result
from tokenred.pipeline import Pipeline, calibrate
from tokenred.types import VisualTokens


@dataclass(frozen=True)
class Progress:
    """Progress of a run. A cell is one row on one sample."""

    n_cells: int
    cells_computed: int = 0
    cells_reused: int = 0
    cells_failed: int = 0
    latest_failure: str = ""

    @property
    def cells_done(self) -> int:
        """Cells computed, reused or failed."""
        return self.cells_computed + self.cells_reused + self.cells_failed


Executor = Callable[[Iterable[Job]], Iterator[Result]]
"""Turns jobs into results, in any order: in this process, or in many."""


def plan(rows: Iterable[Row], task: Task, model: EvaluatedModel, store: Store) -> list[PlannedRow]:
    """Check every row, solve calibrated budgets, and name the origin of the results.

    Calibration uses held-out samples, and is stored. A row with stored results has passed the check
    before.

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
            origin = _origin(row, task, model)
            if not store.known(origin):
                model.check(Pipeline(row.config).needs)
            if row.config.budget.mode == "calibrated":
                row = _calibrated(row, origin, videos, store)
                origin = _origin(row, task, model)
        store.add_config(origin.config_id, row.canonical)
        planned.append(PlannedRow(row, origin))
    return planned


def run_ablation(
    planned: Sequence[PlannedRow],
    task: Task,
    store: Store,
    n_samples: int,
    executor: Executor,
    *,
    any_code: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Answer all questions of the first ``n_samples`` samples under every row.

    Stored cells are skipped, and a sample without missing cells is not encoded. Every cell is
    stored at once, so a run may be stopped at any time. Failed cells are tried again.

    Parameters
    ----------
    any_code : whether answers of another version of the code count as stored

    Raises
    ------
    TokenredError
        If the store cannot be written, or a row fails on a sample and the executor does not go on;
        both are named.
    """
    by_origin = {cell.origin: cell for cell in planned}
    progress = Progress(n_samples * len(by_origin))

    def jobs() -> Iterator[Job]:
        nonlocal progress
        for index in range(n_samples):
            sample_id = task.sample_id(index)
            done = store.done(sample_id, by_origin, any_code)
            progress = replace(progress, cells_reused=progress.cells_reused + len(done))
            on_progress(progress)
            missing = [cell for origin, cell in by_origin.items() if origin not in done]
            if missing:
                yield Job(index, sample_id, tuple(missing))

    for result in executor(jobs()):
        if isinstance(result, Failure):
            store.write_failure(result)
            progress = replace(
                progress,
                cells_failed=progress.cells_failed + 1,
                latest_failure=result.message,
            )
        else:
            store.write(result.origin, result.sample_id, result.answers, result.cost)
            progress = replace(progress, cells_computed=progress.cells_computed + 1)
        on_progress(progress)
    return progress


def _origin(row: Row, task: Task, model: EvaluatedModel) -> Origin:
    code = code_version(row.config, task.config)
    return Origin(row.config_id, model.revision, task.fingerprint, code)


class _CalibrationVideos:
    """Encodes the held-out samples on demand, once for each set of cues."""

    def __init__(self, task: Task, model: EvaluatedModel) -> None:
        self._task, self._model = task, model
        self._videos: dict[tuple[frozenset[str], int | None], list[VisualTokens]] = {}

    def __call__(self, needs: frozenset[str], n_frames: int | None) -> list[VisualTokens]:
        if not self._task.calibration:
            raise ConfigError(
                f"a calibrated budget needs held-out samples, task '{self._task.name}' has none",
                ["calibration"],
            )
        key = needs, n_frames
        if key not in self._videos:
            samples = (self._task.sample(i).take(n_frames) for i in self._task.calibration)
            with torch.no_grad():
                self._videos[key] = [
                    each.clip.tokens
                    for sample in samples
                    for each in _about_each(self._model.encode(sample, needs), sample, needs)
                ]
        return self._videos[key]


def _about_each(encoded: Any, sample: Sample, needs: frozenset[str]) -> list[Any]:
    """Return a sample once, or for each of its questions if a cue comes from them."""
    if not reads_question(needs):
        return [encoded]
    return [encoded.about(n) for n in range(len(sample.questions))]


def _calibrated(row: Row, origin: Origin, videos: _CalibrationVideos, store: Store) -> Row:
    """Return the row with its calibrated budget solved."""
    known = store.calibrated(origin)
    if known is None:
        known = calibrate(row.config, videos(Pipeline(row.config).needs, row.frames)).to_dict()
        store.add_calibrated(origin, known)
    return replace(row, config=type(row.config).model_validate(known))


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Add the row to an error."""
    try:
        yield
    except ConfigError as error:
        raise error.below([place]) from error
    except TokenredError as error:
        raise type(error)(f"{place}: {error}") from error
