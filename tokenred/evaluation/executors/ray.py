"""Run an ablation in many processes, on one machine or a cluster, with Ray.

Each worker gets one job at a time. Results come back one by one to this process, the only one that
writes the store.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from tokenred.errors import CapabilityError, ConfigError, TokenredError
from tokenred.evaluation.executors.ray_worker import (
    MakeModel,
    MakeTask,
    RemoteWorker,
    WorkerSetup,
    versions,
)
from tokenred.evaluation.feature_cache import FeatureCache
from tokenred.evaluation.model import ModelSpec
from tokenred.evaluation.store import Failure
from tokenred.evaluation.worker import ExecutorRequest, Job, Result
from tokenred.plugin_files import plugin_files

OBJECT_STORE_BYTES = 128 << 20  # results are numbers and texts
CONNECT_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass
class _Task:
    """A job: the cells without a result yet, and the number of workers that died on it."""

    job: Job
    deaths: int = 0

    def complete(self, result: Result) -> None:
        left = tuple(cell for cell in self.job.cells if cell.origin != result.origin)
        self.job = replace(self.job, cells=left)


@dataclass
class _Worker:
    """A Ray actor and its task; None while it loads the model."""

    actor: Any
    task: _Task | None = None


class RayExecutor:
    """Executor that runs jobs in ``n_workers`` processes, each with its own model.

    Results are the same as in one process. A worker that dies is replaced, and the rest of its job
    goes to the next free one.

    Parameters
    ----------
    task : settings of the task, or a function that builds it; every worker builds its own
    model : likewise
    address : of a running cluster, ``auto`` for the one on this machine; by default a local one is
        started, and stopped at the end
    n_workers : number of processes, each on its own GPU if there are GPUs
    threads : CPU threads of each
    keep_going : whether a row that fails on a sample becomes a ``Failure`` instead of an error
    cache : in front of the vision tower; its folder is one of each machine, or shared
    rows_per_job : a job with more rows is split into several, each of which encodes the sample
    n_tries : workers that may die over one job before it fails
    show_logs : whether Ray prints the output of workers

    Raises
    ------
    CapabilityError
        If Ray is not installed.
    ConfigError
        If the device names one GPU of several.
    """

    def __init__(
        self,
        task: MakeTask,
        model: MakeModel,
        *,
        address: str | None = None,
        n_workers: int = 2,
        threads: int = 1,
        keep_going: bool = False,
        cache: FeatureCache | None = None,
        rows_per_job: int = 32,
        n_tries: int = 3,
        show_logs: bool = False,
    ) -> None:
        _import_ray()
        for name, value in {"n_workers": n_workers, "threads": threads, "n_tries": n_tries}.items():
            if value < 1:
                raise ConfigError(f"must be 1 or more, got {value}", [name])
        if isinstance(model, ModelSpec) and ":" in model.device:
            raise ConfigError(
                f"Ray gives every worker a GPU of its own; use cuda instead of {model.device}",
                ["--device"],
            )
        self._task, self._model = task, model
        self._address, self._n_workers, self._threads = address, n_workers, threads
        self._keep_going, self._cache = keep_going, cache
        self._rows, self._n_tries, self._show_logs = rows_per_job, n_tries, show_logs

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results of every job, in the order in which they arrive.

        A job is taken from ``jobs`` when a worker is free for it.

        Raises
        ------
        TokenredError
            If Ray cannot be started or reached, the workers do not fit or are not the same as this
            process, or a sample fails and the executor does not keep going.
        """
        tasks = (_Task(part) for job in jobs for part in split(job, self._rows))
        first = deque(islice(tasks, self._n_workers))
        if not first:
            return  # do not start Ray for nothing
        with self._cluster() as ray:
            n_gpus = self._check_room(ray)
            yield from _Pool(self, ray, n_gpus, first, tasks).results()

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Start or join a cluster, and stop or leave it; keep a connection that exists already."""
        ray = _import_ray()
        mine = not ray.is_initialized()
        with _quiet(ray, self._show_logs):
            try:
                if mine:
                    self._init(ray)
                yield ray
            finally:
                if mine:
                    ray.shutdown()

    def _init(self, ray: Any) -> None:
        options: dict[str, Any] = {
            "address": self._address or "local",  # None would ask an environment variable
            "log_to_driver": self._show_logs,
            "logging_level": logging.INFO if self._show_logs else logging.ERROR,
        }
        if self._address is None:
            options |= {
                "num_cpus": self._n_workers * self._threads,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        else:
            _check_reachable(self._address)
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises bare ones too
            raise TokenredError(self._reason(error)) from error

    def _reason(self, error: Exception) -> str:
        """Return the reason in one sentence."""
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            reason = "it asks for a token; say --address auto on one of its machines"
        at = f"the Ray cluster at {self._address}" if self._address else "Ray"
        return f"{at} cannot be used: {reason}"

    def _check_room(self, ray: Any) -> int:
        """Return the GPUs of each worker; raise if the cluster is too small for all workers."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        device = self._model.device if isinstance(self._model, ModelSpec) else "cpu"
        some_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
        n_gpus = int(device == "cuda" or (device == "auto" and some_gpu))
        room = 0
        for node in nodes:
            by_cpu = int(node.get("CPU", 0) // self._threads)
            room += min(by_cpu, int(node.get("GPU", 0))) if n_gpus else by_cpu
        if room < self._n_workers:
            gpu = " and a GPU" if n_gpus else ""
            raise ConfigError(
                f"the cluster has room for {room} workers with {self._threads} CPU threads{gpu} "
                f"each, not for {self._n_workers}",
                ["--workers"],
            )
        return n_gpus

    def _setup(self, task: _Task) -> WorkerSetup:
        return WorkerSetup(
            task=self._task,
            model=self._model,
            threads=self._threads,
            keep_going=self._keep_going,
            cache=self._cache,
            folder=os.getcwd(),
            versions=versions(),
            expected=task.job.cells[0].origin,
        )


def with_ray(request: ExecutorRequest) -> RayExecutor:
    """Return the executor of ``tokenred ablate --executor ray``."""
    return RayExecutor(
        request.task.config,
        request.model.spec,
        address=request.address,
        n_workers=request.workers,
        threads=request.threads,
        keep_going=request.keep_going,
        cache=request.cache,
    )


class _Pool:
    """The workers of one run and their tasks.

    Parameters
    ----------
    waiting : tasks to run before those of ``tasks``
    """

    def __init__(
        self,
        settings: RayExecutor,
        ray: Any,
        n_gpus: int,
        waiting: deque[_Task],
        tasks: Iterator[_Task],
    ) -> None:
        self._settings, self._ray = settings, ray
        self._waiting, self._tasks = waiting, tasks
        self._setup = ray.put(settings._setup(waiting[0]))
        self._actor = ray.remote(RemoteWorker).options(
            num_cpus=settings._threads,
            num_gpus=n_gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,  # a new one is started instead, with what is left of the job
        )
        self._actors: list[Any] = []
        self._running: dict[Any, _Worker] = {}
        self._deaths_in_a_row = 0  # while loading
        self._logged: set[str] = set()

    def results(self) -> Iterator[Result]:
        ray = self._ray
        try:
            for _ in range(len(self._waiting)):
                self._start()
            while self._running:
                (done, *_), _ = ray.wait(list(self._running), num_returns=1)
                worker = self._running.pop(done)
                try:
                    response = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error  # a fault of the code, not of a process
                except ray.exceptions.RayError:
                    yield from self._retire(worker)
                    continue
                self._log_once(response.warnings)
                if isinstance(response.outcome, TokenredError):
                    raise response.outcome
                if response.outcome is None:
                    if worker.task is None:
                        self._deaths_in_a_row = 0
                    self._assign(worker)
                else:
                    assert worker.task is not None
                    worker.task.complete(response.outcome)
                    self._ask(worker, None)
                    yield response.outcome
        finally:
            for actor in list(self._actors):
                self._stop(actor)

    def _start(self) -> None:
        actor = self._actor.remote(plugin_files())
        self._actors.append(actor)
        self._running[actor.start.remote(self._setup)] = _Worker(actor)

    def _ask(self, worker: _Worker, job: Job | None) -> None:
        self._running[worker.actor.step.remote(job)] = worker

    def _more(self) -> bool:
        """Return whether a task waits for a free worker."""
        if not self._waiting:
            self._waiting.extend(islice(self._tasks, 1))
        return bool(self._waiting)

    def _assign(self, worker: _Worker) -> None:
        """Give a free worker the next task, or stop it to free its GPU."""
        if self._more():
            worker.task = self._waiting.popleft()
            self._ask(worker, worker.task.job)
        else:
            self._stop(worker.actor)

    def _stop(self, actor: Any) -> None:
        self._actors.remove(actor)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def _retire(self, worker: _Worker) -> Iterator[Failure]:
        """Replace a worker that died, and queue its task again."""
        self._stop(worker.actor)
        task, n_tries = worker.task, self._settings._n_tries
        if task is None:
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= n_tries:
                self._check_fewer()
                return
        elif task.job.cells:
            task.deaths += 1
            if task.deaths < n_tries:
                self._waiting.appendleft(task)
            else:
                yield from self._failed(task)
        if self._more():
            self._start()

    def _check_fewer(self) -> None:
        """Continue with fewer workers, if any are left."""
        message = (
            f"{_workers(self._deaths_in_a_row)} died while loading the model, perhaps out of memory"
        )
        if not self._running:
            raise TokenredError(f"{message}; try fewer workers")
        self._log_once([f"{message}; continuing with fewer workers"])

    def _failed(self, task: _Task) -> Iterator[Failure]:
        message = (
            f"sample '{task.job.sample_id}': {_workers(task.deaths)} died on it, perhaps out of "
            "memory"
        )
        if not self._settings._keep_going:
            raise TokenredError(message)
        for cell in task.job.cells:
            yield Failure(cell.origin, task.job.sample_id, message)

    def _log_once(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            if warning not in self._logged:
                self._logged.add(warning)
                _log.warning("%s", warning)


def split(job: Job, n_rows: int) -> Iterator[Job]:
    """Yield jobs of at most ``n_rows`` rows, about equally many.

    Rows of the same frames stay together: they share one encoding.
    """
    cells = sorted(job.cells, key=lambda cell: cell.row.frames or 0)
    n_parts = -(-len(cells) // n_rows)
    for part in range(n_parts):
        span = slice(part * len(cells) // n_parts, (part + 1) * len(cells) // n_parts)
        yield replace(job, cells=tuple(cells[span]))


def _workers(n: int) -> str:
    return "1 worker" if n == 1 else f"{n} workers in a row"


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise CapabilityError("Ray is not installed: pip install 'tokenred[ray]'") from error
    return ray


def _check_reachable(address: str) -> None:
    """Raise a TokenredError at once, where Ray would retry for minutes."""
    if address == "auto":
        return
    where = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = where.port
    except ValueError:
        port = None
    if not where.hostname or port is None:
        raise ConfigError(f"expected auto or HOST:PORT, got '{address}'", ["--address"])
    try:
        socket.create_connection((where.hostname, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise TokenredError(
            f"no Ray cluster answers at {address}: {error.strerror or error}; `ray start --head` "
            "starts one"
        ) from None


@contextmanager
def _quiet(ray: Any, show_logs: bool) -> Iterator[None]:
    """Keep Ray from printing to stdout that a worker died: stdout is for data.

    Ray has no public switch for it.
    """
    worker, name = ray._private.worker, "_worker_logs_enabled"
    before = getattr(worker, name, None)
    if before is not None:
        setattr(worker, name, show_logs)
    try:
        yield
    finally:
        if before is not None:
            setattr(worker, name, before)
