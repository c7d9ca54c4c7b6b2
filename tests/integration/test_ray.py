"""Workers in other processes: the same results, whatever dies.

All tests but one share one Ray cluster of two CPUs on this machine.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.evaluation_toys import ToyModel, ToyTask, contents, toy_ablation
from tests.ray_toys import VERSION, Trouble, fix_versions
from tokenred.errors import ConfigError, InputError
from tokenred.evaluation import runner
from tokenred.evaluation.ablation import load_ablation
from tokenred.evaluation.executors import ray as executor_module
from tokenred.evaluation.executors.ray import RayExecutor
from tokenred.evaluation.feature_cache import FeatureCache
from tokenred.evaluation.model import ModelSpec, VideoLlm
from tokenred.evaluation.runner import plan, run_ablation
from tokenred.evaluation.store import Store
from tokenred.evaluation.tasks.embedded import EmbeddedTask
from tokenred.evaluation.worker import InProcess, Worker

ray = pytest.importorskip("ray")

# Ray's own: files of its processes that it leaves to the garbage collector, and announcements.
pytestmark = [
    pytest.mark.usefixtures("library_of_the_user"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]
N_SAMPLES = 6
HEAD = """
import ray, sys
ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR", object_store_memory=100 << 20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def running_cluster(tries: int = 3) -> Iterator[str]:
    """Start a cluster in a process of its own; Ray gives up after 30 s on a busy machine."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # With authentication, an address alone would open no door.
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    with subprocess.Popen([sys.executable, "-c", HEAD], text=True, env=env, **pipes) as head:
        address = head.stdout.readline().strip()
        if address:
            try:
                yield address
            finally:
                head.stdin.close()
            return
        error = head.stderr.read()
    if tries == 1:
        raise RuntimeError(error)
    with running_cluster(tries - 1) as address:
        yield address


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a cluster of two CPUs."""
    with running_cluster() as found:
        yield found


@pytest.fixture(scope="module")
def cluster(address: str) -> Iterator[object]:
    """Join the cluster, so that executors find this process joined, and leave it so."""
    hook = {"worker_process_setup_hook": fix_versions}
    ray.init(address, log_to_driver=False, logging_level="ERROR", runtime_env=hook)
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def fixed_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "versions", lambda: {"tokenred": VERSION})
    monkeypatch.setattr(runner, "code_version", lambda *configs: VERSION)


def toys(path: Path, executor, n_samples: int = N_SAMPLES):
    """Run the toy ablation into a store; return what it holds, failures and progress."""
    task = ToyTask()
    with Store(path) as store:
        planned = plan(toy_ablation().expand([1 / 3]), task, ToyModel(), store)
        progress = run_ablation(planned, task, store, n_samples, executor)
        ids = [task.sample_id(index) for index in range(n_samples)]
        failures = [each for cell in planned for each in store.failures(cell.origin, ids)]
    return contents(path), failures, progress


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list:
    """Return what the toy ablation gives in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "code_version", lambda *configs: VERSION)
        path = tmp_path_factory.mktemp("here") / "store.sqlite"
        return toys(path, InProcess(Worker(ToyTask(), ToyModel())))[0]


def executor(trouble: Trouble, **settings) -> RayExecutor:
    return RayExecutor(ToyTask, trouble.model, **settings)


def test_whatever_befalls_workers_nothing_is_lost_or_double(
    cluster, tmp_path, undisturbed, capfd
) -> None:
    """All at once: killed between two rows, over and over, and from outside; a corrupt video.

    Starting a process takes seconds, so that one run has to show it all.
    """
    trouble = Trouble(
        tmp_path,
        dies_on=("toy/001",),
        dies_always_on=("toy/002",),
        fails_on=("toy/003",),
        seconds=0.02,
    )
    work = executor(trouble, keep_going=True, n_tries=2)
    victims, taken = [], []

    def watched(jobs):
        for done, result in enumerate(work(taken.append(job) or job for job in jobs), 1):
            assert len(taken) <= done + 2  # jobs are taken when a worker is free
            if result.sample_id == "toy/004" and not victims:
                victims.append(kill_a_worker(tmp_path))
            yield result

    held, failures, progress = toys(tmp_path / "s", watched)
    assert (tmp_path / "died toy-001").exists()
    assert len(victims) == 1
    assert held == [row for row in undisturbed if not {"toy/002", "toy/003"} & set(row)]
    assert progress.cells_computed == len(held) / 2  # two questions a cell; none came twice
    assert {each.message for each in failures} == {
        "sample 'toy/002': 2 workers in a row died on it, perhaps out of memory",
        "sample 'toy/003': the video is corrupt",
    }
    assert progress.cells_failed == len(failures) == progress.n_cells * 2 / N_SAMPLES
    assert "".join(capfd.readouterr()) == ""  # not a word of Ray
    assert cluster.is_initialized()
    held, failures, _ = toys(tmp_path / "s", InProcess(Worker(ToyTask(), ToyModel())))
    assert held == undisturbed
    assert failures == []


def kill_a_worker(folder: Path) -> int:
    """Kill one of the workers that are alive, and return its process id."""
    for path in sorted(folder.glob("pid-*")):
        pid = int(path.name.removeprefix("pid-"))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return pid
    raise AssertionError("no worker is alive")


def test_an_error_ends_the_run_as_it_would_here(cluster, tmp_path, undisturbed) -> None:
    work = executor(Trouble(tmp_path, fails_on=("toy/001",)), n_workers=1)
    with pytest.raises(InputError) as caught:
        toys(tmp_path / "s", work)
    assert type(caught.value) is InputError
    assert str(caught.value) == "sample 'toy/001': the video is corrupt"
    assert contents(tmp_path / "s") == [row for row in undisturbed if "toy/000" in row]


def test_more_workers_than_fit_are_refused(cluster, tmp_path) -> None:
    with pytest.raises(ConfigError, match="room for 2 workers with 1 CPU threads each, not for 3"):
        toys(tmp_path / "s", executor(Trouble(tmp_path), n_workers=3))
    with pytest.raises(ConfigError, match="room for 0 workers with 1 CPU threads and a GPU each"):
        toys(tmp_path / "s", RayExecutor(ToyTask, ModelSpec(device="cuda")))


def embedded(path: Path, executor, cache=None):
    task = EmbeddedTask()
    rows = {"AOT": None, "first frames": {"pipeline": "downsample", "frames": 4}}
    ablation = load_ablation({"name": "short", "rows": rows, "always": []})
    with Store(path) as store:
        planned = plan(ablation.expand([0.25]), task, VideoLlm(), store)
        run_ablation(planned, task, store, 2, executor)
    return contents(path)


def test_the_embedded_model_gives_the_same_results(cluster, tmp_path) -> None:
    """A real model behind a cache, and the rows of a sample in two parts."""
    task, cache = EmbeddedTask(), FeatureCache(tmp_path / "cache", 10**9)
    wanted = embedded(tmp_path / "here", InProcess(Worker(task, VideoLlm())))
    spec = ModelSpec(device="cpu")
    work = RayExecutor(task.config, spec, n_workers=1, cache=cache, rows_per_job=2)
    assert embedded(tmp_path / "there", work) == wanted
    warm = FeatureCache(cache.folder, 10**9)
    assert embedded(tmp_path / "warm", InProcess(Worker(task, VideoLlm(remember=warm)))) == wanted
    assert warm.n_misses == 0
    assert len(wanted) > 0
    assert len(list(cache.folder.glob("*.safetensors"))) == 4  # two samples, two numbers of frames


RAYS = "ignore::ResourceWarning"
OWN = """
import sys
from pathlib import Path
from tests.evaluation_toys import ToyModel, ToyTask, toy_ablation
from tests.ray_toys import Trouble
from tokenred.evaluation.executors import ray as executor
from tokenred.evaluation.runner import plan, run_ablation
from tokenred.evaluation.store import Store

# tokenred's own would differ if somebody saved a source file just now.
found = executor.versions()
executor.versions = lambda: {name: found[name] for name in ("torch", "transformers")}
task = ToyTask()
for where, address in (("joined", sys.argv[2]), ("own", None)):
    folder = Path(sys.argv[1], where)
    folder.mkdir()
    with Store(folder / "s") as store:
        planned = plan(toy_ablation().expand([1 / 3]), task, ToyModel(), store)
        work = executor.RayExecutor(ToyTask, Trouble(folder).model, address=address, n_workers=1)
        print(run_ablation(planned, task, store, 2, work).cells_computed)
import ray
assert not ray.is_initialized()
"""


def test_a_cluster_is_joined_or_started(cluster, address, tmp_path, undisturbed) -> None:
    """In a process of its own, where every warning is an error."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore::ResourceWarning",
            "-c",
            OWN,
            tmp_path,
            address,
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == 2 * f"{len(undisturbed) // N_SAMPLES}\n"
    assert done.stderr == ""
    for where in ("joined", "own"):
        assert len(contents(tmp_path / where / "s")) == 2 * len(undisturbed) / N_SAMPLES
    assert [node["Alive"] for node in ray.nodes()] == [True]
