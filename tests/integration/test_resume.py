"""Runs that are killed at any moment, run twice at once, or find no room to write."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from profiles import examples

from tests.evaluation_toys import ToyModel, ToyTask, contents, run_toy, toy_ablation, work
from tokenred.cli import main
from tokenred.errors import TokenredError
from tokenred.evaluation import files
from tokenred.evaluation.manifest import STORE, Run, make_run, read_run, write_run
from tokenred.evaluation.provenance import package_version
from tokenred.evaluation.store import Store
from tokenred.evaluation.summary import Summary, summarise
from tokenred.report.table import write_tables

pytestmark = pytest.mark.usefixtures("library_of_the_user")

N_SAMPLES = 20
N_KILLS = examples(20)
Start = Callable[[Path, float], ForkServerProcess]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    path = tmp_path_factory.mktemp("undisturbed") / "results.sqlite"
    with Store(path) as store:
        run_toy(store, N_SAMPLES)
    return contents(path)


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.ForkServerContext:
    """Processes that branch off one that has imported everything and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.evaluation_toys"])
    return context


@pytest.fixture
def start(context: multiprocessing.context.ForkServerContext) -> Iterator[Start]:
    """Start toy runs in processes of their own, and leave none behind."""
    running: list[ForkServerProcess] = []

    def start(path: Path, seconds: float) -> ForkServerProcess:
        arguments = (str(path), N_SAMPLES, seconds, package_version())
        process = context.Process(target=work, args=arguments)
        process.start()
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.join()
        process.close()


def n_stored(path: Path) -> int:
    """Return how many answers there are, whatever a process is doing to the file."""
    if not path.exists():
        return 0
    database = sqlite3.connect(path, timeout=10)
    try:
        return int(database.execute("SELECT count(*) FROM results").fetchone()[0])
    except sqlite3.OperationalError:  # the first process has not made the tables yet
        return 0
    finally:
        database.close()


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_in_the_same_results(
    start: Start,
    path: Path,
    undisturbed: list[tuple[object, ...]],
    record_property: Callable[[str, object], None],
) -> None:
    """Each process resumes what the ones before it left, and is killed in turn.

    When it is killed depends on how far it got, so that the kills spread over the whole run, and
    on a random moment after that, so that they fall anywhere: at the start, into an encoding, a
    reduction or a transaction.
    """
    chance = random.Random(5)
    last = len(undisturbed) * 3 // 4  # what is left over is room for a process to run on
    targets = sorted(chance.sample(range(last), N_KILLS))
    counts = []
    for target in targets:
        process = start(path, 0.05)
        while process.is_alive() and n_stored(path) < target:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was done before it could be killed"
        stored = contents(path) if n_stored(path) else []
        assert set(stored) <= set(undisturbed), "something half or wrong"
        assert len(stored) == len(set(stored)), "something double"
        counts.append(len(stored))
    record_property("answers_stored_at_each_kill", counts)
    print(f"answers stored at each kill, of {len(undisturbed)}: {counts}")
    assert counts == sorted(counts), "something lost"
    assert len(set(counts)) > N_KILLS // 2
    assert counts[-1] < len(undisturbed)
    with Store(path) as store:
        _, progress = run_toy(store, N_SAMPLES)
        (healthy,) = store._db.execute("PRAGMA integrity_check").fetchone()
    assert healthy == "ok"
    assert 2 * progress.cells_reused == counts[-1]
    assert contents(path) == undisturbed


@pytest.mark.slow
def test_two_processes_on_one_store_neither_corrupt_nor_double(
    start: Start, path: Path, undisturbed: list[tuple[object, ...]]
) -> None:
    both = [start(path, 0.02) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert contents(path) == undisturbed


@pytest.mark.slow
def test_many_processes_may_make_one_store_at_once(
    context: multiprocessing.context.ForkServerContext, tmp_path: Path
) -> None:
    for attempt in range(5):
        many = [
            context.Process(target=work, args=(str(tmp_path / f"{attempt}.sqlite"), 0, 0.0, "v"))
            for _ in range(4)
        ]
        for process in many:
            process.start()
        for process in many:
            process.join()
        assert [process.exitcode for process in many] == [0] * len(many)


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Run, Summary]:
    with Store(":memory:") as store:
        planned, _ = run_toy(store, 2)
        run = make_run(toy_ablation(), planned, ToyTask(), ToyModel(), 2)
        return run, summarise(run, store)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_manifest(finished: tuple[Run, Summary], folder: Path) -> None:
    write_run(finished[0], folder)


def write_table(finished: tuple[Run, Summary], folder: Path) -> None:
    write_tables(finished[1], folder)


WRITERS = pytest.mark.parametrize("write", [write_manifest, write_table])


@WRITERS
def test_a_full_disk_leaves_the_old_files_and_no_drafts(
    write: Callable, finished: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(finished, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    whole = Path.write_text

    def half(file: Path, text: str, **options: str) -> None:
        whole(file, text[: len(text) // 2], **options)
        full_disk()

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(TokenredError, match=rf"^cannot write {tmp_path}/.*: No space left"):
        write(finished, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@WRITERS
def test_a_read_only_folder_is_one_sentence(write: Callable, finished: tuple) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with without_privileges(), pytest.raises(TokenredError) as caught:
            write(finished, Path(folder))
        Path(folder).chmod(0o755)
    assert str(caught.value).startswith(f"cannot write {folder}/")
    assert "\n" not in str(caught.value)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while, as root may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


def test_two_processes_may_write_one_manifest(
    finished: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one writes and is done while the first one is still at its draft."""
    run, _ = finished
    whole = Path.write_text
    monkeypatch.setattr(files.os, "getpid", lambda: 1)

    def interrupted(file: Path, text: str, **options: str) -> None:
        whole(file, text, **options)
        monkeypatch.setattr(Path, "write_text", whole)
        monkeypatch.setattr(files.os, "getpid", lambda: 2)
        write_run(run, tmp_path)

    monkeypatch.setattr(Path, "write_text", interrupted)
    write_run(run, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert read_run(tmp_path) == run


def command(*arguments: object) -> int:
    """Run the command line and return its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the embedded model."""
    folder = tmp_path_factory.mktemp("small") / "run"
    assert command("ablate", "vanilla", "--limit", 1, "--out", folder) == 0
    return folder


@pytest.mark.parametrize("name", ["run.json", "table.md"])
def test_the_command_says_what_it_could_not_write_and_keeps_the_results(
    small: Path,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "run"))
    capsys.readouterr()
    whole = Path.write_text

    def full(file: Path, text: str, **options: str) -> int:
        if name in file.name:
            full_disk()
        return whole(file, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert command("ablate", "vanilla", "--limit", 1, "--out", folder) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        f"tokenred: cannot write {folder / name}: No space left on device"
    )
    assert "Traceback" not in said.err
    assert contents(folder / "results.sqlite") == contents(small / "results.sqlite")
    monkeypatch.undo()
    assert command("ablate", "vanilla", "--limit", 1, "--out", folder) == 0
    assert "0 results computed, 3 found in the store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "holds no run; `tokenred ablate` makes one"),
        ("{", "run.json, line 1: not valid JSON"),
        ("[]", r"run.json holds no mapping, but \[\]"),
        ('{"version": 99}', "run.json has layout 99, this tokenred reads 1"),
        ('{"version": 1}', "run.json cannot be read: 'rows' is missing"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(TokenredError, match=sentence) as caught:
        read_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_terminated_run_says_what_it_leaves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["-m", "tokenred", "ablate", "components", "--limit", "100", "--out", str(out)]
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("tokenred: stopped; what was computed is in ")
    assert n_stored(out / STORE) > 0
    assert read_run(out).name == "components"
