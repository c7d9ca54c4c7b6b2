"""What all parts of one run share: sizes, rounds, the canaries, and processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.speed import statistics
from benchmarks.speed.statistics import Call, Rounds, Timing

ROOT = Path(__file__).parents[2]
SINGLE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
"""Read by the libraries when they are loaded, so they have to be set before Python starts."""
NO_TRIMMING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36)}
"""Disables malloc trimming while timings are taken, so that page faults, whose cost depends on the
machine, do not count. This favours the code that allocates most, which is the released one."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    frames, dim, anchors : of the video of the end-to-end tables; the grid is 27x27
    released_frames : frames that the released formulation is given; its time is scaled to
        ``frames``, as it goes from frame to frame
    repeats, warmup : rounds
    slow_repeats, slow_warmup : rounds of the tables whose rounds take seconds
    sweep_frames : frames on which sweeps are counted
    curves : axis -> sizes of the scaling curves
    curve_frames : frames of every curve but that over frames
    memory_limit : bytes; what would need more is left out
    thorough : False measures one row of each kind where rows differ in size only
    """

    frames: int = 32
    dim: int = 3584
    anchors: int = 126
    released_frames: int = 2
    repeats: int = 9
    warmup: int = 2
    slow_repeats: int = 9
    slow_warmup: int = 1
    sweep_frames: int = 2
    epsilons: tuple[float, ...] = (0.1, 0.05, 0.02)
    curve_frames: int = 8
    curves: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "frames": (8, 16, 32, 64, 128, 256, 512),
            "tokens": (169, 400, 729, 1296, 2304),
            "anchors": (16, 64, 126, 256, 512),
            "features": (384, 1536, 3584, 8192),
        }
    )
    memory_limit: float = 12e9
    thorough: bool = True


QUICK = Sizes(
    frames=1,
    dim=128,
    released_frames=1,
    repeats=2,
    warmup=0,
    slow_repeats=2,
    slow_warmup=0,
    sweep_frames=1,
    epsilons=(0.1,),
    curve_frames=1,
    curves={"frames": (4, 8), "anchors": (16, 126)},
    thorough=False,
)
"""Shows within a few minutes that everything runs. Its figures mean nothing."""


@dataclass
class Session:
    """One run.

    Attributes
    ----------
    full : also run the released formulation on every frame, once
    trimming_disabled : whether this process runs with ``NO_TRIMMING``
    canary_ms : the fixed matmul in all rounds of all tables, in order
    say : takes a line about what is being done
    """

    sizes: Sizes = field(default_factory=Sizes)
    full: bool = False
    trimming_disabled: bool = True
    canary_ms: list[float] = field(default_factory=list)
    say: Callable[[str], None] = print

    def measure(self, contenders: Mapping[str, Call], *, slow: bool = False) -> Rounds:
        """Time contenders in rounds; ``slow`` for those that take seconds."""
        sizes = self.sizes
        rounds = statistics.measure(
            contenders,
            repeats=sizes.slow_repeats if slow else sizes.repeats,
            warmup=sizes.slow_warmup if slow else sizes.warmup,
        )
        self.canary_ms += rounds.canary_ms
        return rounds


def figures(timing: Timing) -> dict[str, float]:
    """Return a timing as it stands in the JSON."""
    return {
        "median_ms": timing.median_ms,
        "mad_ms": timing.mad_ms,
        "min_ms": timing.min_ms,
        "rounds": timing.n,
    }


def fresh(function: str, **arguments: Any) -> Any:
    """Call ``package.module:function`` in a Python of its own; return what it returned.

    Arguments and answer travel as JSON. A process of its own has no memory that others left behind.

    Raises
    ------
    RuntimeError
        If the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.speed.session", function, json.dumps(arguments)]
    plain = {name: value for name, value in os.environ.items() if name not in NO_TRIMMING}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**plain, **SINGLE_THREAD},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(f"{function} {arguments}: {last or f'exit code {done.returncode}'}")
    return json.loads(done.stdout.rpartition("\n")[2])


def _answer(function: str, arguments: str) -> None:
    module, _, name = function.partition(":")
    answer = getattr(import_module(module), name)(**json.loads(arguments))
    sys.stdout.write("\n" + json.dumps(answer))


if __name__ == "__main__":
    _answer(*sys.argv[1:])
