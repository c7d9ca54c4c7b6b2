"""A worker process of ``RayExecutor``: holds a task and a model, and runs jobs."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from tokenred.config import StrategyConfig
from tokenred.errors import TokenredError
from tokenred.evaluation.feature_cache import FeatureCache
from tokenred.evaluation.model import EvaluatedModel, ModelSpec, VideoLlm
from tokenred.evaluation.provenance import package_version
from tokenred.evaluation.store import Origin
from tokenred.evaluation.task import Task, load_task
from tokenred.evaluation.worker import Job, Result, Worker
from tokenred.plugin_files import load_plugin_source
from tokenred.plugins import plugin_statuses

MakeTask = StrategyConfig | Callable[[], Task]
MakeModel = ModelSpec | Callable[[], EvaluatedModel]


@dataclass(frozen=True)
class WorkerSetup:
    """Settings of a worker, and the versions it must match.

    Attributes
    ----------
    folder : working directory, if it exists
    versions : of the code that gives the setup
    expected : the origin that the results must have
    """

    task: MakeTask
    model: MakeModel
    threads: int
    keep_going: bool
    cache: FeatureCache | None
    folder: str
    versions: dict[str, str]
    expected: Origin


@dataclass(frozen=True)
class Response:
    """What a call of a worker returns.

    Attributes
    ----------
    outcome : the next result; None if the worker is ready for a job; an error to be raised
    warnings : messages logged during the call
    """

    outcome: Result | TokenredError | None
    warnings: tuple[str, ...] = ()


class RemoteWorker:
    """Runs a worker in its own process, one result a call, so that each is stored at once.

    Errors are returned, because Ray would wrap them into a traceback.
    """

    def __init__(self, plugin_files: Mapping[Path, bytes]) -> None:
        """Load plugin files first: the setup may hold instances of their classes."""
        self._refusal: TokenredError | None = None
        try:
            for path, source in plugin_files.items():
                load_plugin_source(path, source)
        except TokenredError as error:
            self._refusal = error
        self._worker: Worker | None = None
        self._results: Iterator[Result] = iter(())
        self._warnings = _Warnings()

    def start(self, setup: WorkerSetup) -> Response:
        """Load the task and the model, and check that they match the main process."""
        where = socket.gethostname()
        if self._refusal is not None:
            return Response(self._refusal)
        try:
            _same_versions(setup.versions, where)
            with suppress(OSError):  # elsewhere the folder need not exist
                os.chdir(setup.folder)
            torch.set_num_threads(setup.threads)
            task = load_task(setup.task) if isinstance(setup.task, StrategyConfig) else setup.task()
            _same("task", task.fingerprint, setup.expected.task_fingerprint, where)
            if isinstance(setup.model, ModelSpec):
                model: EvaluatedModel = VideoLlm(setup.model, setup.cache)
                model.check(())  # loads the model now, not at the first job
            else:
                model = setup.model()
            _same("model", model.revision, setup.expected.model_revision, where)
        except TokenredError as error:
            return Response(error)
        self._worker = Worker(task, model, setup.keep_going)
        return Response(None, self._warnings.taken())

    def step(self, job: Job | None) -> Response:
        """Return the next result of a new job, or of the current one; None at its end."""
        assert self._worker is not None
        if job is not None:
            self._results = self._worker.results(job)
        outcome: Result | TokenredError | None
        try:
            outcome = next(self._results, None)
        except TokenredError as error:
            outcome = error
        return Response(outcome, self._warnings.taken())


def versions() -> dict[str, str]:
    """Return the versions of all code that can change a result; torch without its build tag."""
    plugins = {each.distribution: each.version for each in plugin_statuses() if not each.error}
    libraries = {name: version(name).partition("+")[0] for name in ("torch", "transformers")}
    return {"tokenred": package_version(), **plugins, **libraries}


def _same_versions(expected: dict[str, str], where: str) -> None:
    found = versions()
    for name, wanted in expected.items():
        if found.get(name) != wanted:
            raise TokenredError(
                f"the worker on {where} has {name} {found.get(name, 'not installed')}, this "
                f"process has {wanted}; install the same version everywhere"
            )


def _same(what: str, found: str, expected: str, where: str) -> None:
    if found != expected:
        raise TokenredError(
            f"the worker on {where} sees another {what} ({found} instead of {expected}); its files "
            "must be the same on every machine"
        )


class _Warnings(logging.Handler):
    """Collects warnings of this process, to be logged in the main process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []
        logging.getLogger("tokenred").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self._messages.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        """Return the messages since the last call."""
        messages, self._messages = tuple(self._messages), []
        return messages
