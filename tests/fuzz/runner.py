"""Try damaged files in a process of its own, so that whatever hangs or ends it is noticed.

Each kind of file (``fuzz.videos``, ``fuzz.configs``) says how to make cases and how to try one.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 5.0
LONGEST_SENTENCE = 300
REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    what : what the kind says of it
    seconds : until it was known
    peak_mib : most memory that the process ever had
    """

    what: str
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Kind:
    """One kind of file to damage.

    Attributes
    ----------
    fine : outcomes that are no finding, ``refused`` apart
    cases : of a number, a seed and a folder to work in: name, content and arguments of each file
    attempt : reads the file with the arguments and says what came of it
    prepare : what the process does first
    n : how many are tried by default
    """

    name: str
    fine: tuple[str, ...]
    cases: Callable[[int, int, Path], Iterator[tuple[str, bytes, dict[str, Any]]]]
    attempt: Callable[[Path, dict[str, Any]], str]
    prepare: Callable[[], None]
    n: int

    @property
    def outcomes(self) -> tuple[str, ...]:
        """All outcomes that are no finding."""
        return (*self.fine, REFUSED)


def tried(kind: Kind, path: Path, given: dict[str, Any]) -> str:
    """Try a file; an error on purpose is a refusal, any other one a finding."""
    from tokenred.errors import TokenredError

    try:
        return kind.attempt(path, given)
    except TokenredError as error:
        text = str(error)
        is_fine = len(text.splitlines()) == 1 and len(text) <= LONGEST_SENTENCE
        return REFUSED if is_fine else f"no sentence: {error!r}"
    except BaseException as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"


def _work(pipe: Any, kind: Kind) -> None:
    kind.prepare()
    with suppress(EOFError):
        while True:
            path, given = pipe.recv()
            found = tried(kind, path, given)
            pipe.send((found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Reader:
    """A process that tries files, and is replaced where it does not come back."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs, self._kind), daemon=True)
        self._process.start()
        theirs.close()
        self._is_new = True

    def read(self, path: Path, given: dict[str, Any]) -> Outcome:
        """Try a file in the process."""
        began = time.perf_counter()
        found, peak = None, 0.0
        with suppress(EOFError, ConnectionError):
            self._pipe.send((path, given))
            if self._pipe.poll(SECONDS + 60 * self._is_new):  # a new process has to import first
                found, peak = self._pipe.recv()
            else:
                found = f"no answer in {SECONDS:g} s"
                self._process.kill()
        seconds = time.perf_counter() - began
        if found is None or not self._process.is_alive() or found.startswith("no answer"):
            self._process.join()
            found = found or f"the process ended with {self._process.exitcode}"
            self._start()
        else:
            self._is_new = False
        return Outcome(found, seconds, peak)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def fuzz(
    kind: Kind, n: int, seed: int, keep: Path | None = None
) -> tuple[Counter[str], list[str], Outcome]:
    """Try damaged files.

    Parameters
    ----------
    keep : folder for those that are findings

    Returns
    -------
    tuple
        How often each outcome came, what is wrong with which file, and the slowest one with the
        most memory that any took.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    slowest, peak = Outcome("", 0.0, 0.0), 0.0
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as damaged:
        reader = Reader(kind)
        for number, (name, data, given) in enumerate(kind.cases(n, seed, Path(made))):
            path = Path(damaged) / f"damaged{Path(name).suffix}"
            path.write_bytes(data)
            found = reader.read(path, given)
            is_fine = found.what in kind.outcomes
            counts[found.what if is_fine else "wrong"] += 1
            if number:  # the first one waits for imports
                slowest = max(slowest, found, key=lambda each: each.seconds)
            peak = max(peak, found.peak_mib)
            if not is_fine:
                wrong.append(f"{number} ({name!a}, {given}): {found.what}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{kind.name}-{seed}-{number}").write_bytes(data)
        reader.close()
    return counts, wrong, Outcome(slowest.what, slowest.seconds, peak)


def main(kind: Kind) -> int:
    """Try what was asked for on the command line; return the exit code, 4 for findings."""
    parser = argparse.ArgumentParser(prog=f"fuzz.{kind.name}")
    parser.add_argument("--n", type=int, default=kind.n, help=kind.name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help=f"folder for {kind.name} that are findings")
    given = parser.parse_args()
    counts, wrong, worst = fuzz(kind, given.n, given.seed, given.keep)
    for each in wrong:
        print(f"wrong: {each}")
    said = ", ".join(f"{counts[what]} {what}" for what in (*kind.outcomes, "wrong"))
    print(f"{kind.name}: {said}")
    print(f"slowest {worst.seconds:.2f} s, peak memory {worst.peak_mib:.0f} MiB")
    return 4 if wrong else 0
