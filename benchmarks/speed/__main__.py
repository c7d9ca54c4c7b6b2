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

from benchmarks.speed.session import NO_TRIMMING, QUICK, SINGLE_THREAD, Session, Sizes

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
        "--default-malloc",
        action="store_true",
        help="default malloc: page faults count as time of the code that allocates",
    )
    parser.add_argument(
        "--again",
        action="append",
        metavar="PART",
        help="measure this part alone, and put it in the place of the old one; may be repeated",
    )
    parser.add_argument("--out", type=Path, help="JSON file; results/cpu.json by default")
    args = parser.parse_args()
    wanted = SINGLE_THREAD | ({} if args.default_malloc else NO_TRIMMING)
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.speed", *sys.argv[1:]])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    from benchmarks.speed.record import PARTS, measure, misfits, summary

    unknown = [part for part in args.again or () if part not in PARTS]
    if unknown:
        parser.error(f"no part is called {unknown[0]}; the parts are {', '.join(PARTS)}")
    # A quick run must not take the place of figures that the docs quote.
    out = args.out or RESULTS / ("quick.json" if args.quick else "cpu.json")
    if args.again and not out.is_file():
        parser.error(f"{out} is not there: run all parts first")
    old = json.loads(out.read_text()) if args.again else None

    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {line}", file=sys.stderr, flush=True)

    sizes = QUICK if args.quick else Sizes()
    session = Session(sizes, args.full, not args.default_malloc, say=say)
    if old is not None and (other := misfits(session, old)):
        parser.error(f"{', '.join(other)} not as in {out}: run all parts")
    found = measure(session, args.again or PARTS, old)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(summary(found))
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
