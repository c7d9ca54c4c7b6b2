"""Read damaged videos: each is read or refused by a sentence, within five seconds.

``PYTHONPATH=tests python -m fuzz.videos --n 1000 --seed 0`` (``make fuzz``). The videos are those
of ``awkward``, damaged anew. A process of its own reads them, so that one that hangs, or ends in
the native library, is noticed and named. Exits with 4 if there was one.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from awkward import VIDEOS

from fuzz.damage import damaged

SECONDS = 5.0
FINE = ("read", "read with remarks", "refused")


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    Attributes
    ----------
    what : one of ``FINE``, or what is wrong
    seconds : until it was known
    peak_mib : most memory that the reading process ever had
    """

    what: str
    seconds: float
    peak_mib: float


def ways(random: Random) -> dict[str, Any]:
    """Return arguments of ``read_video``."""
    ways = ({"n_frames": random.randint(1, 16)}, {"fps": random.choice((0.5, 2.0, 30.0))})
    by = {"by": random.choice(("index", "time"))}
    return {**random.choice(ways), **by, "sampling": random.choice(("round", "floor", "start"))}


def read(path: Path, given: dict[str, Any]) -> str:
    """Read a video; return what became of it."""
    from tokenred.errors import TokenredError
    from tokenred.video import read_video

    try:
        clip = read_video(path, **given)
    except TokenredError as error:
        return "refused" if len(str(error).splitlines()) == 1 else f"no sentence: {error!r}"
    except BaseException as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    if len({len(clip.frames), len(clip.frame_indices), len(clip.frame_times)}) > 1:
        return "frames, indices and times differ in number"
    if not clip.frame_times.isfinite().all():
        return f"times are {clip.frame_times.tolist()}"
    return "read with remarks" if clip.remarks else "read"


def _work(pipe: Any) -> None:
    import av
    import torch

    av.logging.set_level(None)
    torch.set_num_threads(1)
    with suppress(EOFError):
        while True:
            path, given = pipe.recv()
            found = read(path, given)
            pipe.send((found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Reader:
    """A process that reads videos, and is replaced where it does not come back."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._is_new = True

    def read(self, path: Path, given: dict[str, Any]) -> Outcome:
        """Read a video in the process."""
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


def cases(n: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield name, content and arguments of damaged videos; the same for the same seed."""
    names = sorted(name for name, video in VIDEOS.items() if ":" not in name and not video.damaged)
    whole: dict[str, bytes] = {}
    for number in range(n):
        random = Random(f"{seed} {number}")
        name = random.choice(names)
        if name not in whole:
            VIDEOS[name].make(folder / name)
            whole[name] = (folder / name).read_bytes()
        yield name, damaged(whole[name], random), ways(random)


def fuzz(n: int, seed: int, keep: Path | None = None) -> tuple[Counter[str], list[str], Outcome]:
    """Read damaged videos.

    Parameters
    ----------
    keep : folder for those that are findings

    Returns
    -------
    tuple
        How often each outcome came, what is wrong with which video, and the slowest one with the
        most memory that any took.
    """
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    slowest, peak = Outcome("", 0.0, 0.0), 0.0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = folder / "damaged"
        reader = Reader()
        for number, (name, data, given) in enumerate(cases(n, seed, folder)):
            path.write_bytes(data)
            found = reader.read(path, given)
            is_fine = found.what in FINE
            counts[found.what if is_fine else "wrong"] += 1
            if number:  # the first one waits for imports
                slowest = max(slowest, found, key=lambda each: each.seconds)
            peak = max(peak, found.peak_mib)
            if not is_fine:
                wrong.append(f"{number} ({name!a}, {given}): {found.what}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}").write_bytes(data)
        reader.close()
    return counts, wrong, Outcome(slowest.what, slowest.seconds, peak)


def main() -> int:
    """Read what was asked for on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="fuzz.videos", description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="videos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for videos that are findings")
    given = parser.parse_args()
    counts, wrong, worst = fuzz(given.n, given.seed, given.keep)
    for each in wrong:
        print(f"wrong: {each}")
    print(", ".join(f"{counts[what]} {what}" for what in (*FINE, "wrong")))
    print(f"slowest {worst.seconds:.2f} s, peak memory {worst.peak_mib:.0f} MiB")
    return 4 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
