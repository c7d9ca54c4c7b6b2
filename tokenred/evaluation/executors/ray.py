"""Workers in many processes, on one machine or a cluster, with Ray.

Jobs go out one at a time to each worker, results come back one by one to the only process that
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
from tokenred.evaluation.executors.ray_worker import Host, MakeModel, MakeTask, Order, versions
from tokenred.evaluation.feature_cache import FeatureCache
from tokenred.evaluation.model import ModelSpec
from tokenred.evaluation.store import Failure
from tokenred.evaluation.worker import ExecutorRequest, Job, Result
from tokenred.plugin_files import plugin_files

OBJECT_STORE_BYTES = 128 << 20  # results are numbers and texts
CONNECT_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass
class _Errand:
    """A job on its way: what is still to come of it, and how many workers died over it."""

    job: Job
    deaths: int = 0

    def deliver(self, result: Result) -> None:
        left = tuple(cell for cell in self.job.cells if cell.origin != result.origin)
        self.job = replace(self.job, cells=left)


@dataclass
class _Hand:
    """A worker of the cluster, and the errand that it is on; None while it loads the model."""

    actor: Any
    errand: _Errand | None = None


class RayExecutor:
    """The executor that does jobs in ``n_workers`` processes, each with a model of its own.

    Results are the same as in one process. A worker that dies is replaced, and what it had not
    answered yet goes to the next free one.

    Parameters
    ----------
    task : settings of the task, from which every worker makes its own; or a function that makes it
    model : likewise
    address : of a cluster that runs, ``auto`` for the one on this machine; by default a new one is
        started on this machine, and stopped at the end
    n_workers : processes; on GPUs each takes one of its own
    threads : CPU threads of each
    keep_going : whether a row that fails on a sample becomes a ``Failure`` instead of an error
    cache : in front of the vision tower; its folder is one of each machine, or shared
    rows_per_errand : a job with more rows is cut into several, each of which encodes the sample
    n_tries : workers that may die over one job before it fails
    show_logs : whether Ray tells what workers print

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
        rows_per_errand: int = 32,
        n_tries: int = 3,
        show_logs: bool = False,
    ) -> None:
        _import_ray()
        for name, value in {"n_workers": n_workers, "threads": threads, "n_tries": n_tries}.items():
            if value < 1:
                raise ConfigError(f"must be 1 or more, got {value}", [name])
        if isinstance(model, ModelSpec) and ":" in model.device:
            raise ConfigError(
                f"Ray gives every worker a GPU of its own; say cuda instead of {model.device}",
                ["--device"],
            )
        self._task, self._model = task, model
        self._address, self._n_workers, self._threads = address, n_workers, threads
        self._keep_going, self._cache = keep_going, cache
        self._rows, self._n_tries, self._show_logs = rows_per_errand, n_tries, show_logs

    def __call__(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield the results of every job, in the order in which they arrive.

        A job is taken from ``jobs`` when a worker is free for it.

        Raises
        ------
        TokenredError
            If Ray cannot be started or reached, the workers do not fit or are not the same as this
            process, or a sample fails and the executor does not keep going.
        """
        errands = (_Errand(part) for job in jobs for part in split(job, self._rows))
        first = deque(islice(errands, self._n_workers))
        if not first:
            return  # nothing to do, no need for Ray
        with self._cluster() as ray:
            n_gpus = self._check_room(ray)
            yield from _Crew(self, ray, n_gpus, first, errands).results()

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Start or join a cluster, and stop or leave it; one that is joined already stays so."""
        ray = _import_ray()
        mine = not ray.is_initialized()
        with _hushed(ray, self._show_logs):
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
            raise TokenredError(self._refusal(error)) from error

    def _refusal(self, error: Exception) -> str:
        """Say in one sentence why there is no cluster."""
        reason = next(iter(str(error).strip().splitlines()), repr(error))
        if "InvalidAuthToken" in f"{error} {error.__cause__}":
            reason = "it asks for a token; say --address auto on one of its machines"
        at = f"the Ray cluster at {self._address}" if self._address else "Ray"
        return f"{at} cannot be used: {reason}"

    def _check_room(self, ray: Any) -> int:
        """Return the GPUs of each worker; refuse more workers than the cluster can ever hold."""
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

    def _order(self, errand: _Errand) -> Order:
        return Order(
            task=self._task,
            model=self._model,
            threads=self._threads,
            keep_going=self._keep_going,
            cache=self._cache,
            folder=os.getcwd(),
            versions=versions(),
            expected=errand.job.cells[0].origin,
        )


def with_ray(request: ExecutorRequest) -> RayExecutor:
    """Return the executor that `tokenred ablate --executor ray` asks for."""
    return RayExecutor(
        request.task.config,
        request.model.spec,
        address=request.address,
        n_workers=request.workers,
        threads=request.threads,
        keep_going=request.keep_going,
        cache=request.cache,
    )


class _Crew:
    """The workers of one run and the errands that they are on.

    Parameters
    ----------
    waiting : errands that come before those of ``errands``
    """

    def __init__(
        self,
        settings: RayExecutor,
        ray: Any,
        n_gpus: int,
        waiting: deque[_Errand],
        errands: Iterator[_Errand],
    ) -> None:
        self._settings, self._ray = settings, ray
        self._waiting, self._errands = waiting, errands
        self._order = ray.put(settings._order(waiting[0]))
        self._actor = ray.remote(Host).options(
            num_cpus=settings._threads,
            num_gpus=n_gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,  # a new one is hired instead, which knows what is left of the job
        )
        self._hired: list[Any] = []
        self._at_work: dict[Any, _Hand] = {}
        self._deaths_in_a_row = 0  # while loading
        self._told: set[str] = set()

    def results(self) -> Iterator[Result]:
        ray = self._ray
        try:
            for _ in range(len(self._waiting)):
                self._hire()
            while self._at_work:
                (done, *_), _ = ray.wait(list(self._at_work), num_returns=1)
                hand = self._at_work.pop(done)
                try:
                    reply = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error  # a fault of the code, not of a process
                except ray.exceptions.RayError:
                    yield from self._bury(hand)
                    continue
                self._tell(reply.warnings)
                if isinstance(reply.outcome, TokenredError):
                    raise reply.outcome
                if reply.outcome is None:
                    if hand.errand is None:
                        self._deaths_in_a_row = 0
                    self._send_out(hand)
                else:
                    assert hand.errand is not None
                    hand.errand.deliver(reply.outcome)
                    self._ask(hand, None)
                    yield reply.outcome
        finally:
            for actor in list(self._hired):
                self._let_go(actor)

    def _hire(self) -> None:
        actor = self._actor.remote(plugin_files())
        self._hired.append(actor)
        self._at_work[actor.start.remote(self._order)] = _Hand(actor)

    def _ask(self, hand: _Hand, job: Job | None) -> None:
        self._at_work[hand.actor.step.remote(job)] = hand

    def _more(self) -> bool:
        """Return whether an errand waits for a free worker."""
        if not self._waiting:
            self._waiting.extend(islice(self._errands, 1))
        return bool(self._waiting)

    def _send_out(self, hand: _Hand) -> None:
        """Give a free worker the next errand, or let it go and its GPU with it."""
        if self._more():
            hand.errand = self._waiting.popleft()
            self._ask(hand, hand.errand.job)
        else:
            self._let_go(hand.actor)

    def _let_go(self, actor: Any) -> None:
        self._hired.remove(actor)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def _bury(self, hand: _Hand) -> Iterator[Failure]:
        """Replace a worker that died, and have its errand done by another one."""
        self._let_go(hand.actor)
        errand, n_tries = hand.errand, self._settings._n_tries
        if errand is None:
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= n_tries:
                self._too_many()
                return
        elif errand.job.cells:
            errand.deaths += 1
            if errand.deaths < n_tries:
                self._waiting.appendleft(errand)
            else:
                yield from self._given_up(errand)
        if self._more():
            self._hire()

    def _too_many(self) -> None:
        """Go on with fewer workers, if some are left."""
        message = (
            f"{_workers(self._deaths_in_a_row)} died while loading the model, perhaps for lack of "
            "memory"
        )
        if not self._at_work:
            raise TokenredError(f"{message}; try fewer workers")
        self._tell([f"{message}; going on with fewer workers"])

    def _given_up(self, errand: _Errand) -> Iterator[Failure]:
        message = (
            f"sample '{errand.job.sample_id}': {_workers(errand.deaths)} died over it, perhaps for "
            "lack of memory"
        )
        if not self._settings._keep_going:
            raise TokenredError(message)
        for cell in errand.job.cells:
            yield Failure(cell.origin, errand.job.sample_id, message)

    def _tell(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                _log.warning("%s", warning)


def split(job: Job, n_rows: int) -> Iterator[Job]:
    """Yield jobs of at most ``n_rows`` rows, about equally many; rows of the same frames together.

    Such rows share one encoding.
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
    """Raise a TokenredError where Ray would try for minutes."""
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
def _hushed(ray: Any, show_logs: bool) -> Iterator[None]:
    """Keep Ray from telling on stdout, where our data goes, that a worker died; we say what counts.

    There is no public switch for it.
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
