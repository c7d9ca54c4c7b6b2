"""Measure everything: ``python -m benchmarks.speed [--quick] [--full]``; ``make bench`` does so.

Runs on one core and with one thread: it starts itself anew with what the libraries read when they
are loaded. Writes ``results/cpu.json`` and prints the goals beside their figures.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.speed.session import QUICK, SINGLE_THREAD, WARM_MEMORY, Session, Sizes

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    parser.add_argument(
        "--full", action="store_true", help="the released formulation on all frames as well, once"
    )
    parser.add_argument(
        "--plain-memory",
        action="store_true",
        help="the allocator as it comes: whoever allocates pays for page faults",
    )
    parser.add_argument("--out", type=Path, help="JSON file; results/cpu.json by default")
    args = parser.parse_args()
    wanted = SINGLE_THREAD | ({} if args.plain_memory else WARM_MEMORY)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.speed", *sys.argv[1:]])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    from benchmarks.speed.record import measure, summary

    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {line}", file=sys.stderr, flush=True)

    session = Session(QUICK if args.quick else Sizes(), args.full, say=say)
    found = measure(session) | {"memory_kept": not args.plain_memory}
    # A quick run must not take the place of figures that the docs quote.
    out = args.out or RESULTS / ("quick.json" if args.quick else "cpu.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(summary(found))
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
