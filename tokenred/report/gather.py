"""Collect the rest of a report: single answers, and provenance."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tokenred.errors import TokenredError
from tokenred.evaluation.manifest import Run
from tokenred.evaluation.store import Record, Store
from tokenred.evaluation.summary import RowSummary, Summary
from tokenred.evaluation.task import Sample, load_task
from tokenred.report.columns import full_label
from tokenred.report.explorer import Explorer, explore, most_disputed
from tokenred.report.html import Provenance

MAX_ROWS = 40
"""Rows whose single answers are shown; of more these are the reference, the controls, the best."""


def gather_explorer(run: Run, summary: Summary, store: Store, n_shown: int) -> Explorer:
    """Return the samples on which rows disagree most, with frames if the task can be rebuilt."""
    order = sorted(range(len(run.rows)), key=lambda i: _rank(summary.rows[i]))
    rows = [(summary.rows[i], run.rows[i]) for i in sorted(order[:MAX_ROWS])]
    failed = {sample_id for _, sample_id, _ in summary.failures}
    ids = [id_ for id_ in run.sample_ids if id_ not in failed]
    records: dict[str, Sequence[Record]] = {}
    for row, planned in rows:
        label = full_label(row, summary)
        label = f"{label} ({row.config_id})" if label in records else label
        records[label] = store.records(planned.origin, ids, run.allow_mixed)
    samples, note = _rebuild(run, most_disputed(records, n_shown))
    if len(rows) < len(run.rows):
        note = f"{note} Of {len(run.rows)} rows, {len(rows)} are shown: the best and the controls."
    return explore(records, samples, n_shown, note.strip())


def gather_provenance(run: Run, folder: Path, n_samples: int) -> Provenance:
    """Return hashes and versions, and the commands to reproduce the figures."""
    versions = {
        "model revision": run.model_revision,
        "task fingerprint": run.task_fingerprint,
        "code": ", ".join(sorted({row.origin.code_version for row in run.rows})),
        **run.environment,
        "configurations": "every row's whole pipeline is in run.json",
    }
    return Provenance(versions, _commands(run, folder, n_samples))


def _rank(row: RowSummary) -> tuple[bool, bool, float]:
    return not row.is_reference, not row.control, -row.score.value


def _rebuild(run: Run, ids: Sequence[str]) -> tuple[dict[str, Sample], str]:
    """Return the samples by id, and a sentence about missing ones."""
    try:
        task = load_task(run.task)
        if task.fingerprint != run.task_fingerprint:
            return {}, "Questions and frames are missing: the task has changed since the run."
    except (TokenredError, ImportError, OSError) as error:
        return {}, f"Questions and frames are missing: {error}."
    position = {id_: index for index, id_ in enumerate(run.sample_ids)}
    found, missing = {}, []
    for id_ in ids:
        try:
            sample = task.sample(position[id_])
        except (TokenredError, OSError) as error:
            missing.append(f"Frames of {id_} are missing: {error}.")
            continue
        if sample.id == id_:
            found[id_] = sample
    return found, " ".join(missing)


def _commands(run: Run, folder: Path, n_samples: int) -> tuple[str, ...]:
    retentions = sorted({row.retention for row in run.rows if row.retention is not None})[::-1]
    words = ["tokenred", "ablate", run.name, "--limit", str(n_samples), "--out", str(folder)]
    if retentions:
        words += ["--retention", ",".join(f"{ratio:g}" for ratio in retentions)]
    if run.task_name != "embedded":
        words += ["--task", str(run.task.get("path", run.task_name))]
    if run.model.get("name"):
        words += ["--model", str(run.model["name"])]
    if run.model.get("revision"):
        words += ["--revision", str(run.model["revision"])]
    return shlex.join(words), shlex.join(["tokenred", "report", str(folder)])
