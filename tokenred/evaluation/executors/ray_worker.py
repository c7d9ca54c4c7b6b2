"""The process on the other side of ``RayExecutor``: it holds a task and a model, and takes jobs."""

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
class Order:
    """What a worker is to hold, and what it must agree with.

    Attributes
    ----------
    folder : in which relative paths are meant, if it exists
    versions : of the code that gives the order
    expected : an origin that the results must have
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
class Reply:
    """What came of a call.

    Attributes
    ----------
    outcome : the next result; None if the worker is ready for a job; an error is there to be raised
    warnings : sentences that were logged on the way
    """

    outcome: Result | TokenredError | None
    warnings: tuple[str, ...] = ()


class Host:
    """Holds a worker; every call gives one reply, so that each result is stored when it is there.

    Errors are returned, because Ray would wrap them into a traceback.
    """

    def __init__(self, plugin_files: Mapping[Path, bytes]) -> None:
        """Load plugin files; it is done before an order comes, which may speak of their classes."""
        self._refusal: TokenredError | None = None
        try:
            for path, source in plugin_files.items():
                load_plugin_source(path, source)
        except TokenredError as error:
            self._refusal = error
        self._worker: Worker | None = None
        self._results: Iterator[Result] = iter(())
        self._warnings = _Warnings()

    def start(self, order: Order) -> Reply:
        """Load the task and the model, and compare them with what is expected."""
        where = socket.gethostname()
        if self._refusal is not None:
            return Reply(self._refusal)
        try:
            _same_versions(order.versions, where)
            with suppress(OSError):  # elsewhere the folder need not exist
                os.chdir(order.folder)
            torch.set_num_threads(order.threads)
            task = load_task(order.task) if isinstance(order.task, StrategyConfig) else order.task()
            _same("task", task.fingerprint, order.expected.task_fingerprint, where)
            if isinstance(order.model, ModelSpec):
                model: EvaluatedModel = VideoLlm(order.model, order.cache)
                model.check(())  # loads it: now, not at the first job
            else:
                model = order.model()
            _same("model", model.revision, order.expected.model_revision, where)
        except TokenredError as error:
            return Reply(error)
        self._worker = Worker(task, model, order.keep_going)
        return Reply(None, self._warnings.taken())

    def step(self, job: Job | None) -> Reply:
        """Return the next result of a new job, or of the one at hand; None at its end."""
        assert self._worker is not None
        if job is not None:
            self._results = self._worker.results(job)
        outcome: Result | TokenredError | None
        try:
            outcome = next(self._results, None)
        except TokenredError as error:
            outcome = error
        return Reply(outcome, self._warnings.taken())


def versions() -> dict[str, str]:
    """Return the versions of all code that can change a result; of torch without its build."""
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
    """Collects what tokenred logs in this process, to be told where somebody reads it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._sentences: list[str] = []
        logging.getLogger("tokenred").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a sentence."""
        self._sentences.append(record.getMessage())

    def taken(self) -> tuple[str, ...]:
        """Return the sentences that were not taken before."""
        sentences, self._sentences = tuple(self._sentences), []
        return sentences
