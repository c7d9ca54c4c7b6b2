"""What the Ray executor does about workers that die or differ, on a Ray that is played here.

``tests/integration/test_ray.py`` runs it on a real one.
"""

import logging
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.evaluation_toys import ToyModel, ToyTask, contents, toy_ablation
from tokenred.errors import ConfigError, TokenredError
from tokenred.evaluation.executors import ray as executor_module
from tokenred.evaluation.executors.ray import RayExecutor, split
from tokenred.evaluation.executors.ray_worker import RemoteWorker, WorkerSetup
from tokenred.evaluation.model import ModelSpec
from tokenred.evaluation.runner import plan, run_ablation
from tokenred.evaluation.store import Origin, Store
from tokenred.evaluation.worker import InProcess, Job, Worker
from tokenred.plugin_files import unload_plugin_file
from tokenred.plugins import registry

N_SAMPLES = 3


class RayError(Exception):
    """What Ray raises for a process that is gone."""


class RayTaskError(RayError):
    """What Ray raises for an error of the code."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long traceback")
        self.cause = cause


class PlayedRay:
    """The part of Ray that the executor uses; calls run here, one after the other."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    _private = SimpleNamespace(worker=SimpleNamespace(_worker_logs_enabled=True))

    def __init__(self) -> None:
        self.n_started = 0
        self.alive: set[Any] = set()
        self.options: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        resources = [{"CPU": 3.0, "GPU": 1.0}, {"CPU": 1.0}, {}]
        nodes = [{"Alive": True, "Resources": each} for each in resources]
        return [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def put(self, value: Any) -> Any:
        return value

    def remote(self, host: type) -> Any:
        def start(*given: Any) -> Any:
            self.n_started += 1
            there = host(*given)
            actor = SimpleNamespace(start=_Method(there.start), step=_Method(there.step))
            self.alive.add(id(actor))
            return actor

        def options(**given: Any) -> Any:
            self.options = given
            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, calls: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return calls[:num_returns], calls[num_returns:]

    def get(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RayError:
            raise
        except Exception as error:
            raise RayTaskError(error) from None

    def kill(self, actor: Any) -> None:
        self.alive.discard(id(actor))


class _Method:
    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        return lambda: self._method(*arguments)


class Fate:
    """Makes models to which something happens on some samples, a number of times."""

    def __init__(self, what: Exception, times: dict[str, int], loads: int = 0) -> None:
        self.what, self.times, self.loads = what, times, loads

    def __call__(self) -> ToyModel:
        if self.loads > 0:
            self.loads -= 1
            raise self.what
        fate = self

        class Model(ToyModel):
            def encode(self, sample, needs):
                if fate.times.get(sample.id, 0) > 0:
                    fate.times[sample.id] -= 1
                    raise fate.what
                return super().encode(sample, needs)

        return Model()


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    ray = PlayedRay()
    monkeypatch.setattr(executor_module, "_import_ray", lambda: ray)
    monkeypatch.setattr(executor_module, "versions", dict)
    monkeypatch.chdir(Path.cwd())  # workers change it
    return ray


def toys(path: Path, executor):
    """Run the toy ablation into a store; return what it holds, failures and progress."""
    task = ToyTask()
    with Store(path) as store:
        planned = plan(toy_ablation().expand([1 / 3]), task, ToyModel(), store)
        progress = run_ablation(planned, task, store, N_SAMPLES, executor)
        ids = [task.sample_id(index) for index in range(N_SAMPLES)]
        failures = [each for cell in planned for each in store.failures(cell.origin, ids)]
    return contents(path), failures, progress


@pytest.fixture
def undisturbed(tmp_path: Path) -> list:
    return toys(tmp_path / "undisturbed", InProcess(Worker(ToyTask(), ToyModel())))[0]


DEAD = RayError("gone")


def test_results_are_those_of_one_process(played, tmp_path, undisturbed) -> None:
    held, _, progress = toys(tmp_path / "s", RayExecutor(ToyTask, ToyModel, rows_per_job=3))
    assert held == undisturbed
    assert progress.cells_computed == progress.n_cells
    assert played.n_started == 2
    assert not played.alive
    assert played.options["num_gpus"] == 0


def test_a_full_store_needs_no_worker(played, tmp_path, undisturbed) -> None:
    held, _, progress = toys(tmp_path / "undisturbed", RayExecutor(ToyTask, ToyModel))
    assert held == undisturbed
    assert progress.cells_computed == played.n_started == 0


def test_the_dead_are_replaced(played, tmp_path, undisturbed) -> None:
    fate = Fate(DEAD, {"toy/000": 2, "toy/002": 1}, loads=2)
    held, failures, progress = toys(tmp_path / "s", RayExecutor(ToyTask, fate))
    assert held == undisturbed
    assert failures == []
    assert progress.cells_computed == progress.n_cells
    assert played.n_started == 2 + 5
    assert not played.alive


def test_no_worker_starts_when_nothing_is_left(played, tmp_path, undisturbed, monkeypatch) -> None:
    class LastWords(PlayedRay):
        def get(self, call):
            response = super().get(call)
            if response.outcome is None and self.n_answers == len(undisturbed) / 2:
                raise DEAD  # after the last result
            self.n_answers += response.outcome is not None
            return response

        n_answers = 0

    ray = LastWords()
    monkeypatch.setattr(executor_module, "_import_ray", lambda: ray)
    held, _, _ = toys(tmp_path / "s", RayExecutor(ToyTask, ToyModel, n_workers=1))
    assert held == undisturbed
    assert ray.n_started == 1


def test_a_sample_that_kills_every_worker_is_named(played, tmp_path, undisturbed) -> None:
    def work(**settings: Any) -> RayExecutor:
        return RayExecutor(ToyTask, Fate(DEAD, {"toy/001": 99}), **settings)

    message = "sample 'toy/001': 3 workers in a row died on it, perhaps out of memory"
    with pytest.raises(TokenredError, match=message):
        toys(tmp_path / "s", work())
    assert not played.alive
    held, failures, progress = toys(tmp_path / "s", work(keep_going=True))
    assert held == [row for row in undisturbed if "toy/001" not in row]
    assert {each.message for each in failures} == {message}
    assert progress.cells_failed == len(failures) == progress.n_cells / N_SAMPLES


def test_workers_that_never_load_end_the_run(played, tmp_path) -> None:
    message = "2 workers in a row died while loading the model, perhaps out of memory; try"
    with pytest.raises(TokenredError, match=message):
        toys(tmp_path / "s", RayExecutor(ToyTask, Fate(DEAD, {}, loads=9), n_workers=1, n_tries=2))


def test_fewer_workers_go_on(played, tmp_path, undisturbed, caplog) -> None:
    fate = Fate(DEAD, {}, loads=1)
    held, _, _ = toys(tmp_path / "s", RayExecutor(ToyTask, fate, n_workers=2, n_tries=1))
    assert held == undisturbed
    assert played.n_started == 2
    assert "1 worker died while loading the model" in caplog.text
    assert "continuing with fewer workers" in caplog.text


def test_a_fault_of_the_code_is_no_dead_worker(played, tmp_path) -> None:
    fate = Fate(RuntimeError("a fault of the code"), {"toy/001": 1})
    with pytest.raises(RuntimeError, match=r"^a fault of the code$"):
        toys(tmp_path / "s", RayExecutor(ToyTask, fate))
    assert played.n_started == 2
    assert not played.alive


def test_jobs_are_taken_when_a_worker_is_free(played, tmp_path) -> None:
    taken, work = [], RayExecutor(ToyTask, ToyModel, n_workers=1)

    def watched(jobs):
        for result in work(taken.append(job) or job for job in jobs):
            assert taken[-1].sample_id == result.sample_id
            yield result

    toys(tmp_path / "s", watched)
    assert len(taken) == N_SAMPLES


def test_a_run_that_is_left_stops_its_workers(played, tmp_path) -> None:
    with Store(tmp_path / "s") as store:
        planned = plan(toy_ablation().expand([1 / 3]), ToyTask(), ToyModel(), store)
    jobs = (Job(n, ToyTask().sample_id(n), tuple(planned)) for n in range(100))
    results = RayExecutor(ToyTask, ToyModel)(jobs)
    next(results)
    assert len(played.alive) == 2
    results.close()
    assert not played.alive
    assert next(jobs).index == 2


@pytest.mark.parametrize(
    ("settings", "n_gpus", "room"),
    [
        ({"device": "cpu", "n_workers": 5}, 0, "4 workers with 1 CPU threads each, not for 5"),
        ({"device": "cpu", "n_workers": 4}, 0, None),
        ({"device": "cpu", "n_workers": 2, "threads": 2}, 0, "room for 1 workers with 2 CPU thr"),
        ({"device": "auto", "n_workers": 1}, 1, None),
        ({"device": "cuda", "n_workers": 2}, 1, "1 workers with 1 CPU threads and a GPU each"),
    ],
)
def test_workers_must_fit(played, settings, n_gpus, room) -> None:
    device, settings = settings["device"], {k: v for k, v in settings.items() if k != "device"}
    work = RayExecutor(ToyTask, ModelSpec(device=device), **settings)
    if room is None:
        assert work._check_room(played) == n_gpus
    else:
        with pytest.raises(ConfigError, match=room):
            work._check_room(played)


class OtherTask(ToyTask):
    fingerprint = "toy-2"


class OtherModel(ToyModel):
    revision = "toy-weights-2"


SETUP = WorkerSetup(
    task=ToyTask,
    model=ToyModel,
    threads=torch.get_num_threads(),
    keep_going=False,
    cache=None,
    folder="/nowhere",
    versions={},
    expected=Origin("config", ToyModel.revision, ToyTask.fingerprint, "0.1.0"),
)


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ({"versions": {"tokenred": "0.0.1"}}, "has tokenred .*, this process has 0.0.1; install"),
        ({"versions": {"tokenred-x": "2"}}, "has tokenred-x not installed, this process has 2"),
        ({"task": OtherTask}, "sees another task .toy-2 instead of toy-1."),
        ({"model": OtherModel}, "sees another model .toy-weights-2 instead of toy-weights-1."),
    ],
)
def test_a_worker_that_differs_is_refused(setup, message) -> None:
    assert RemoteWorker({}).start(SETUP).outcome is None
    refused = RemoteWorker({}).start(replace(SETUP, **setup)).outcome
    assert isinstance(refused, TokenredError)
    assert re.search(message, str(refused))
    assert str(pickle.loads(pickle.dumps(refused))) == str(refused)


def test_a_worker_loads_the_plugin_files_of_this_process() -> None:
    text = b"import tokenred\n@tokenred.hookimpl\ndef register_presets(register):\n"
    path = Path("/nowhere/mine.py")
    try:
        source = text + b"    register('mine', 'x.yaml')"
        assert RemoteWorker({path: source}).start(SETUP).outcome is None
        assert registry().preset("mine") == Path("/nowhere/x.yaml")
    finally:
        unload_plugin_file(path)
    refused = RemoteWorker({path: b"1 / 0"}).start(SETUP).outcome
    assert "mine.py cannot be loaded: ZeroDivisionError" in str(refused)


def test_what_a_worker_logs_is_told() -> None:
    host = RemoteWorker({})
    logging.getLogger("tokenred.somewhere").warning("the cache cannot be written")
    assert host.start(SETUP).warnings == ("the cache cannot be written",)
    assert host.start(SETUP).warnings == ()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9: Connection refused; `ray start"),
        ("somewhere", "expected auto or HOST:PORT, got 'somewhere'"),
        ("somewhere:port", "expected auto or HOST:PORT, got 'somewhere:port'"),
    ],
)
def test_an_address_where_nobody_answers_is_said(address, message) -> None:
    with pytest.raises(TokenredError, match=message):
        executor_module._check_reachable(address)


def test_one_gpu_of_several_cannot_be_asked_for(played) -> None:
    with pytest.raises(ConfigError, match="use cuda instead of cuda:1"):
        RayExecutor(ToyTask, ModelSpec(device="cuda:1"))


def test_without_ray_a_sentence_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TokenredError, match=r"pip install 'tokenred\[ray\]'"):
        RayExecutor(ToyTask, ToyModel)


def test_a_job_is_cut_into_equal_parts(tmp_path) -> None:
    with Store(tmp_path / "s") as store:
        planned = plan(toy_ablation().expand([1 / 3]), ToyTask(), ToyModel(), store)
    rows = [replace(planned[0].row, frames=n % 2 * 2 or None) for n in range(9)]
    cells = [replace(planned[0], row=row) for row in rows]
    parts = list(split(Job(5, "toy/005", tuple(cells)), 4))
    assert [len(part.cells) for part in parts] == [3, 3, 3]
    assert [cell.row.frames for part in parts for cell in part.cells] == [None] * 5 + [2] * 4
    assert {(part.index, part.sample_id) for part in parts} == {(5, "toy/005")}
    assert list(split(parts[0], 4)) == [parts[0]]
