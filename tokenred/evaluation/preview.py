"""A dry run: every row on one video, nothing stored."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenred.evaluation.ablation import Row
from tokenred.evaluation.model import EvaluatedModel
from tokenred.evaluation.runner import plan, run_ablation
from tokenred.evaluation.store import Store
from tokenred.evaluation.summary import record_flops
from tokenred.evaluation.task import Task
from tokenred.evaluation.worker import InProcess, PlannedRow, Worker


@dataclass(frozen=True)
class Preview:
    """What a row does to the first video, and how many videos are answered already."""

    row: str
    retention: float | None
    config_id: str
    n_tokens: int
    retention_ratio: float
    prefill_flops: int
    stored: int
    to_compute: int


def preview(
    rows: Sequence[Row], task: Task, model: EvaluatedModel, path: Path, n_samples: int
) -> list[Preview]:
    """Try every row on the first sample, in memory, and look up what ``path`` holds.

    Raises
    ------
    TokenredError
        If a row cannot run; it is named.
    """
    with Store(":memory:") as trial:
        planned = plan(rows, task, model, trial)
        run_ablation(planned, task, trial, 1, InProcess(Worker(task, model)))
        firsts = [trial.records(cell.origin, [task.sample_id(0)])[0] for cell in planned]
    stored = _stored(planned, task, path, n_samples)
    return [
        Preview(
            row=cell.row.label,
            retention=cell.row.retention,
            config_id=cell.origin.config_id,
            n_tokens=first.cost.n_tokens,
            retention_ratio=first.cost.retention_ratio,
            prefill_flops=record_flops(first, model.shape),
            stored=done,
            to_compute=n_samples - done,
        )
        for cell, first, done in zip(planned, firsts, stored)
    ]


def _stored(planned: Sequence[PlannedRow], task: Task, path: Path, n_samples: int) -> list[int]:
    if not os.path.exists(path):  # nor where it is too long to be one
        return [0] * len(planned)
    ids = [task.sample_id(index) for index in range(n_samples)]
    with Store(path) as store:
        return [
            len({record.sample_id for record in store.records(cell.origin, ids)})
            for cell in planned
        ]
