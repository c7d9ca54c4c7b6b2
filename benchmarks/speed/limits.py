"""What this machine can do at most, measured in the same run."""

import statistics
from typing import Any

from benchmarks.speed import contenders
from benchmarks.speed.session import Session
from benchmarks.speed.solvers import EPSILON, SWEEPS, problems


def limits(session: Session) -> dict[str, Any]:
    """Return arithmetic and bandwidths of one core, and how near one sweep comes to them.

    A sweep reads the kernel matrices of all frames once, out of the second-level cache; its time is
    that of 101 sweeps less that of one, so neither kernel nor plan is in it.
    """
    given = problems(session)
    found: dict[str, Any] = {"measured": None, "sweeps": []}
    try:
        from benchmarks.speed import roofline
    except ImportError:
        found["missing"] = "benchmarks.speed.roofline is not there"
    else:
        try:
            found["measured"] = roofline.measure()
        except (OSError, RuntimeError) as error:
            found["missing"] = str(error)
    runs, _ = contenders.usable(each for each in contenders.contenders() if each.group == "ours")
    calls = {}
    for each in runs:
        calls[f"{each.name} 1"] = each.prepare(given, EPSILON, 1)
        calls[f"{each.name} many"] = each.prepare(given, EPSILON, SWEEPS + 1)
    rounds = session.measure(calls)
    kernel_bytes = given.cost.numel() * given.cost.element_size()
    for each in runs:
        one, many = (rounds.times_ms[f"{each.name} {n}"] for n in ("1", "many"))
        sweep_ms = statistics.median((b - a) / SWEEPS for a, b in zip(one, many))
        row = {
            "name": each.name,
            "sweep_ms": sweep_ms,
            "gbs": kernel_bytes / sweep_ms / 1e6,
            "gflops": 4 * given.cost.numel() / sweep_ms / 1e6,
        }
        if found["measured"]:
            row["share_of_l2"] = row["gbs"] / found["measured"]["l2_gbs"]
        found["sweeps"].append(row)
    found["kernel_bytes"] = kernel_bytes
    return found
