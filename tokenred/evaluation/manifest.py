"""The manifest of a run: rows, model, task and samples, stored beside its results.

Manifest and store suffice to rebuild tables and reports without the model.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokenred.accounting import LlmShape
from tokenred.config import short_hash
from tokenred.errors import InputError, TokenredError, nearest, shown
from tokenred.evaluation.ablation import Ablation
from tokenred.evaluation.files import write_whole
from tokenred.evaluation.model import EvaluatedModel
from tokenred.evaluation.store import Origin
from tokenred.evaluation.task import Task
from tokenred.evaluation.worker import PlannedRow
from tokenred.kernels.native import kernels_in_use
from tokenred.texts import read_json

FILE = "run.json"
STORE = "results.sqlite"
MANIFEST_VERSION = 1
MAX_RUN_BYTES = 2**28


@dataclass(frozen=True)
class RunRow:
    """One row of a run: its pipeline as data, and its published score in %, if any."""

    label: str
    retention: float | None
    frames: int | None
    control: bool
    config: dict[str, Any]
    origin: Origin
    published: float | None = None


@dataclass(frozen=True)
class Run:
    """Everything that the table of a run needs besides the results.

    Attributes
    ----------
    reference : label of the row that the others are compared with
    sweep : whether the best of many rows is chosen
    shape : sizes of the LLM, for FLOPs
    model, task : their settings as plain data
    kinds : kind of question -> chance level
    allow_mixed : whether answers of other code versions count, too
    environment : software versions and machine
    """

    name: str
    title: str
    question: str
    reference: str
    published_source: str | None
    sweep: bool
    model_name: str
    model_revision: str
    shape: LlmShape
    model: dict[str, Any]
    task_name: str
    task_fingerprint: str
    task: dict[str, Any]
    kinds: Mapping[str, float]
    sample_ids: tuple[str, ...]
    rows: tuple[RunRow, ...]
    allow_mixed: bool = False
    environment: dict[str, str] = field(default_factory=dict)


def make_run(
    ablation: Ablation,
    planned: Sequence[PlannedRow],
    task: Task,
    model: EvaluatedModel,
    n_samples: int,
    allow_mixed: bool = False,
) -> Run:
    """Return the manifest of the first ``n_samples`` samples under the planned rows."""
    config = ablation.config
    published = config.published
    spec = getattr(model, "spec", None)
    return Run(
        name=config.name,
        title=config.title or config.name,
        question=config.question,
        reference=ablation.reference,
        published_source=None if published is None else published.source,
        sweep=config.sweep is not None,
        model_name=model.name,
        model_revision=model.revision,
        shape=model.shape,
        model={} if spec is None else asdict(spec),
        task_name=task.name,
        task_fingerprint=task.fingerprint,
        task=task.config.model_dump(mode="json"),
        kinds=dict(task.kinds),
        sample_ids=tuple(task.sample_id(index) for index in range(n_samples)),
        rows=tuple(
            RunRow(
                label=cell.row.label,
                retention=cell.row.retention,
                frames=cell.row.frames,
                control=cell.row.control,
                config=cell.row.config.to_dict(),
                origin=cell.origin,
                published=None
                if published is None
                else published.score(cell.row.label, cell.row.retention, config.retention or ()),
            )
            for cell in planned
        ),
        allow_mixed=allow_mixed,
        environment=environment(),
    )


def environment() -> dict[str, str]:
    """Return versions of software, and the machine."""
    found = {"python": platform.python_version(), "machine": platform.platform()}
    found["kernels"] = kernels_in_use()
    for package in ("tokenred", "torch", "transformers", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | {"started": datetime.now(UTC).isoformat(timespec="seconds")}


def run_key(run: Run | Mapping[str, Any]) -> str:
    """Return 8 hex digits over what is run: rows, task, model and samples, in any code version."""
    data = asdict(run) if isinstance(run, Run) else run
    what = [data[name] for name in ("name", "task_fingerprint", "model_revision", "sample_ids")]
    rows = [[row["label"], row["origin"]["config_id"]] for row in data["rows"]]
    return short_hash([what, rows])[:8]


def write_run(run: Run, folder: Path) -> None:
    """Write ``run.json`` as a whole or not at all; the run of something else that it held stays.

    That becomes ``run-KEY.json``, see ``read_run``.

    Raises
    ------
    TokenredError
        If it cannot be written.
    """
    data = {"version": MANIFEST_VERSION, **asdict(run)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TokenredError(f"cannot make {folder}: {error.strerror}") from error
    key = run_key(run)
    with suppress(InputError, OSError):
        before = run_key(read_run(folder))
        if before != key:
            (folder / FILE).replace(folder / f"run-{before}.json")
    write_whole(folder / FILE, json.dumps(data, indent=1) + "\n")
    (folder / f"run-{key}.json").unlink(missing_ok=True)


def read_runs(folder: Path) -> dict[str, Run]:
    """Return all runs that a folder holds, by their keys; the latest first.

    Raises
    ------
    InputError
        If there is none, or the latest cannot be read.
    """
    latest = read_run(folder)
    found = {run_key(latest): latest}
    for path in sorted(Path(folder).glob("run-*.json"), key=lambda path: -path.stat().st_mtime):
        with suppress(InputError):
            run = _read(path)
            found.setdefault(run_key(run), run)
    return found


def read_run(folder: Path, key: str = "") -> Run:
    """Return a run that a folder holds, the latest unless a key is given.

    Raises
    ------
    InputError
        If there is none, or it was written by another version.
    """
    folder = Path(folder)
    if not key:
        return _read(folder / FILE)
    runs = read_runs(folder)
    if key not in runs:
        raise InputError(f"{shown(folder)} holds no run '{key}'{nearest(key, runs)}")
    return runs[key]


def _read(path: Path) -> Run:
    if not os.path.exists(path):
        raise InputError(f"{shown(path.parent)} holds no run; `tokenred ablate` makes one")
    data = read_json(path, MAX_RUN_BYTES)
    found = data.pop("version", None)
    if found != MANIFEST_VERSION:
        raise InputError(f"{path} has layout {found}, this tokenred reads {MANIFEST_VERSION}")
    try:
        rows = tuple(RunRow(**{**row, "origin": Origin(**row["origin"])}) for row in data["rows"])
        return Run(
            **{
                **data,
                "rows": rows,
                "shape": LlmShape(**data["shape"]),
                "sample_ids": tuple(data["sample_ids"]),
            }
        )
    except KeyError as error:
        raise InputError(f"{path} cannot be read: {error} is missing") from None
    except TypeError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
