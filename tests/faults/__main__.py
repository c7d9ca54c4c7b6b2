"""Apply one seeded fault after the other, each in a copy of the tree, and see what catches it.

Exits with 4 if a fault escapes or no longer applies, or a test fails without any.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from faults import ROOT, Fault, chosen, load

CHECK_FAILED = 4
PATIENCE = 10
"""Seconds that may pass for each second of computing: other work may be done at the same time."""
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "site", "build", "dist", "runs")
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
PLACES = (
    "import importlib, sys; print(*(importlib.import_module(n).__file__ for n in sys.argv[1:]))"
)
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What came of some tests: what caught the fault, if anything, and the end of the output."""

    caught_by: str | None
    seconds: float
    output: str = ""


class Copy:
    """A copy of the tree, in which tests import the copy of everything."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.limit_s: int | None = None
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
        sources = sorted(folder.glob("plugins/*/src"))
        paths = os.pathsep.join(map(str, (folder, *sources)))
        self._environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._running: subprocess.Popen[bytes] | None = None
        self._n_faults = 0
        modules = ["tokenred", *(p.name for s in sources for p in s.glob("tokenred_*"))]
        found = self._python(["-c", PLACES, *modules]).output.split()
        if len(found) != len(modules) or not all(Path(p).is_relative_to(folder) for p in found):
            raise SystemExit(f"faults: the copy in {folder} is not what is imported: {found}")

    @contextmanager
    def faulty(self, fault: Fault) -> Iterator[None]:
        """Hold a fault while the context lasts."""
        path, text = self.root / fault.file, fault.text(self.root)
        before, status = path.read_bytes(), path.stat()
        self._n_faults += 1
        try:
            path.write_text(text, encoding="utf-8")
            os.utime(path, (self._n_faults, self._n_faults))  # no compiled file is that old
            yield
        finally:
            path.write_bytes(before)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def test(self, arguments: Iterable[str]) -> Outcome:
        """Run tests."""
        return self._python([*PYTEST, *arguments])

    def stop(self) -> None:
        """End what runs."""
        if self._running is not None and self._running.poll() is None:
            os.killpg(self._running.pid, signal.SIGKILL)

    def _python(self, arguments: list[str]) -> Outcome:
        start = time.monotonic()
        with tempfile.TemporaryFile("w+") as told:  # a pipe stays open as long as a grandchild
            self._running = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.root,
                env=self._environment,
                stdout=told,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if self.limit_s is not None:
                with suppress(ProcessLookupError):  # it is done already
                    limits = (self.limit_s, self.limit_s)
                    resource.prlimit(self._running.pid, resource.RLIMIT_CPU, limits)
            try:
                self._running.wait(None if self.limit_s is None else PATIENCE * self.limit_s)
            except subprocess.TimeoutExpired:
                self.stop()
                self._running.wait()
            told.seek(0)
            output = told.read()
            code = self._running.returncode
        caught_by = None
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            caught_by = f"no answer within {self.limit_s} s"
        elif code:
            caught_by = next(iter(FAILED.findall(output)), f"exit code {code}")
        return Outcome(caught_by, time.monotonic() - start, output[-4000:])


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="ids, areas, or parts of paths of code or tests"
    )
    parser.add_argument("--list", action="store_true", help="show the faults and run nothing")
    parser.add_argument("--report", type=Path, help="also write the verdicts, .json or .md")
    parser.add_argument("--workers", type=int, default=2, help="copies that are tested at a time")
    parser.add_argument(
        "--limit", type=int, default=180, help="seconds of computing for the tests of a fault"
    )
    args = parser.parse_args()
    faults = chosen(load(), args.only) if args.only else load()
    if not faults:
        parser.error(f"no fault is meant by {' '.join(args.only)}")
    if args.list:
        print(*(f"{f.area:<12} {f.id:<36} {f.tests}" for f in faults), sep="\n")
        return 0
    stale = [message for message in map(_misfit, faults) if message]
    if stale:
        print(*stale, sep="\n")
        return CHECK_FAILED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and clear up
    with tempfile.TemporaryDirectory(prefix="tokenred-faults-") as folder:
        copies = [Copy(Path(folder, str(n))) for n in range(args.workers)]
        return _judge(faults, copies, args.limit, args.report)


def _judge(faults: list[Fault], copies: list[Copy], limit_s: int, report: Path | None) -> int:
    print(f"faults: the tests of {len(faults)} faults without any", flush=True)
    for arguments, outcome in _each(_selections(faults, len(copies)), copies, Copy.test):
        if outcome.caught_by is not None:
            print(f"{outcome.output}\nfaults: {' '.join(arguments)} fails without a fault")
            return CHECK_FAILED
    for copy in copies:
        copy.limit_s = limit_s
    verdicts = []
    for fault, outcome in _each(faults, copies, _try):
        by = outcome.caught_by
        line = f"{'ESCAPED' if by is None else 'caught ':<8}{fault.id:<36} {outcome.seconds:5.0f} s"
        print(f"{line}  {fault.tests if by is None else by}", flush=True)
        verdicts.append({"area": fault.area, "id": fault.id, "file": fault.file,
                         "caught_by": by, "seconds": round(outcome.seconds, 1)})  # fmt: skip
    n_caught = sum(verdict["caught_by"] is not None for verdict in verdicts)
    print(f"faults: {n_caught} of {len(verdicts)} caught")
    if report is not None:
        report.write_text(_written(verdicts, report.suffix), encoding="utf-8")
    return 0 if n_caught == len(verdicts) else CHECK_FAILED


def _try(copy: Copy, fault: Fault) -> Outcome:
    with copy.faulty(fault):
        return copy.test(fault.arguments)


def _each(
    items: Iterable[Any], copies: list[Copy], work: Callable[[Copy, Any], Outcome]
) -> Iterator[tuple[Any, Outcome]]:
    """Do the work on every item in whatever copy is free; yield outcomes as they come."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def do(item: Any) -> tuple[Any, Outcome]:
        copy = free.get()
        try:
            return item, work(copy, item)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        jobs = [pool.submit(do, item) for item in items]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for copy in copies:
                copy.stop()


def _selections(faults: list[Fault], n_parts: int) -> list[list[str]]:
    """Return all named tests as few runs: those that are narrowed by options stay apart."""
    plain = sorted({a for f in faults if "-k" not in f.arguments for a in f.arguments})
    narrowed = sorted({tuple(f.arguments) for f in faults if "-k" in f.arguments})
    parts = (plain[part::n_parts] for part in range(n_parts))
    return [*(part for part in parts if part), *map(list, narrowed)]


def _misfit(fault: Fault) -> str | None:
    try:
        fault.text()
    except ValueError as error:
        return str(error)
    return None


def _written(verdicts: list[dict[str, Any]], suffix: str) -> str:
    ordered = sorted(verdicts, key=lambda verdict: (verdict["area"], verdict["id"]))
    if suffix == ".json":
        return json.dumps(ordered, indent=1) + "\n"
    lines = ["| area | fault | in | caught by | s |", "| :-- | :-- | :-- | :-- | --: |"]
    for verdict in ordered:
        by = f"`{verdict['caught_by']}`" if verdict["caught_by"] else "**escaped**"
        place = f"`{verdict['id']}` | `{verdict['file']}`"
        lines.append(f"| {verdict['area']} | {place} | {by} | {verdict['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
