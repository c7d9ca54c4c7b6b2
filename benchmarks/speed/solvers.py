"""Sinkhorn alone: equal iterations, time to an accuracy, and how many sweeps that takes."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from time import process_time
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed import contenders, data, gates, released
from benchmarks.speed.contenders import Contender, Solve
from benchmarks.speed.data import Problems
from benchmarks.speed.session import Session, figures
from tokenred.kernels.sinkhorn import sinkhorn

EPSILON, SWEEPS = 0.1, 100
COST_DIM = 256
"""Width of the features behind the cost matrices; a sweep does not see it."""

TARGETS = (1e-3, 1e-4, 1e-6)
COUNTED = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
MOST_SWEEPS = 512
METHODS = ("none", "chebyshev")
COMPARED = (
    contenders.FAST_NATIVE,
    contenders.FAST_TORCH,
    contenders.OURS_NATIVE,
    contenders.OURS_TORCH,
    contenders.RELEASED,
    contenders.RELEASED_STOP,
    contenders.POT_LOOPS[0],
    contenders.POT_BATCH,
)
"""In the table of time to an accuracy: those without a compilation for every number of sweeps."""

SEARCHED = (contenders.FAST_NATIVE, contenders.FAST_TORCH, contenders.OURS_TORCH)
ROUNDING_SWEEPS = 3

Rows = list[dict[str, Any]]


def problems(session: Session) -> Problems:
    """Return the couplings of the tables: smooth features, the released cost."""
    tokens = data.video("smooth", frames=session.sizes.frames, dim=COST_DIM)
    return data.problems(tokens, session.sizes.anchors, spatial=True)


def equal_iterations(session: Session) -> dict[str, Any]:
    """Time 100 sweeps of everybody, kernel and plan included, their plans checked first."""
    given = problems(session)
    found, absent = contenders.usable(contenders.contenders())
    reference = gates.reference_plan(given, EPSILON, SWEEPS)
    calls = {each.name: each.prepare(given, EPSILON, SWEEPS) for each in found}
    checked, failed = _checked(calls, reference, given)
    absent |= failed
    calls = {name: call for name, call in calls.items() if name in checked}
    rounds = session.measure(calls, slow=True)
    rows: Rows = []
    for each in found:
        if each.name in checked:
            right, first_ms = checked[each.name]
            rows.append(
                {
                    "name": each.name,
                    "group": each.group,
                    **figures(rounds.timing(each.name)),
                    "first_ms": first_ms,
                    **vars(right),
                    "ranked": right.ranked and not each.stops and not each.exact,
                    "remark": _remark(each, right),
                    "against": {
                        mine: rounds.ratio(each.name, mine)
                        for mine in (contenders.OURS_NATIVE, contenders.OURS_TORCH)
                        if mine in calls
                    },
                }
            )
    shape = list(given.cost.shape)
    return {"shape": shape, "epsilon": EPSILON, "sweeps": SWEEPS, "rows": rows, "missing": absent}


def _checked(
    calls: dict[str, Solve], reference: Tensor, given: Problems
) -> tuple[dict[str, tuple[gates.Accuracy, float]], dict[str, str]]:
    """Return accuracy and milliseconds of the first call, and why some calls fail."""
    checked, failed = {}, {}
    for name, call in calls.items():
        try:
            start = process_time()
            plan = call()
            first_ms = (process_time() - start) * 1e3
        except Exception as error:  # a peer's own error must not end the run
            failed[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        checked[name] = gates.accuracy(plan, reference, given), first_ms
    return checked, failed


def _remark(each: Contender, right: gates.Accuracy) -> str:
    if each.exact:
        return "another problem: without entropy"
    if each.stops:
        return "stops by its own rule, long before"
    if each.other_schedule:
        return f"another schedule: {each.other_schedule}"
    return "" if right.ranked else f"not at {gates.PLAN_TOLERANCE:g}"


def time_to_accuracy(session: Session) -> dict[str, Any]:
    """Time as many sweeps as each needs until no problem's marginals are off by more.

    The number is searched for beforehand, so nobody pays for checks; our own stop rule, which does
    pay, has rows of its own.
    """
    given = problems(session)
    found, absent = contenders.usable(
        each
        for each in (*contenders.accelerated(), *contenders.contenders())
        if each.name in COMPARED
    )
    # Plain sweeps are the same for all, so one search serves, and ours comes first.
    found.sort(key=lambda each: each.name != contenders.OURS_TORCH)
    plain: list[int | None] = [1 for _ in TARGETS]
    calls: dict[str, Solve] = {}
    rows: Rows = []
    for each in found:
        tried = _Tried(each, given)
        if each.stops:
            calls[each.name] = tried.solve(SWEEPS)
            rows.append(_row(each, None, None, tried.off(SWEEPS), "its own stop", each.name))
            continue
        try:
            if each.name in SEARCHED:
                needed = fewest(tried.off, TARGETS, SWEEPS)
            else:
                needed = [_from(guess, tried, target) for guess, target in zip(plain, TARGETS)]
        except Exception as error:  # as above
            absent[each.name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            continue
        if each.name == contenders.OURS_TORCH:
            plain = needed
        for target, sweeps in zip(TARGETS, needed):
            if sweeps is None:
                off = tried.off(SWEEPS)
                rows.append(_row(each, target, None, off, f"not within {SWEEPS} sweeps", ""))
                continue
            key = f"{each.name} to {target:g}"
            calls[key] = tried.solve(sweeps)
            rows.append(_row(each, target, sweeps, tried.off(sweeps), "", key))
    rows += _stopping(given, calls)
    rounds = session.measure(calls)
    for row in rows:
        if key := row.pop("key"):
            row |= figures(rounds.timing(key))
            row["against_released_stop"] = rounds.ratio(key, contenders.RELEASED_STOP)
    return {"epsilon": EPSILON, "targets": list(TARGETS), "rows": rows, "missing": absent}


def _row(
    each: Contender, target: float | None, sweeps: int | None, off: float, remark: str, key: str
) -> dict[str, Any]:
    return {
        "name": each.name,
        "group": each.group,
        "target": target,
        "sweeps": sweeps,
        "violation": off,
        "remark": remark,
        "key": key,
    }


def _stopping(given: Problems, calls: dict[str, Solve]) -> Rows:
    """Add our function as users run it, with its stop on the residual."""
    rows: Rows = []
    for path in ("native", "torch"):
        if path == "native" and not contenders.native_is_built():
            continue
        for tolerance in (1e-3, 1e-6):
            name = f"tokenred, {path}, stop at residual {tolerance:g}"
            each = Contender(name, "ours", contenders.stopping(path, tolerance), stops=True)
            calls[name] = each.prepare(given, EPSILON, SWEEPS)
            rows.append(
                _row(each, None, None, _marginals(calls[name](), given), "its own stop", name)
            )
    return rows


def _marginals(plan: Tensor, given: Problems) -> float:
    return gates.accuracy(plan, plan.double(), given).violation


class _Tried:
    """One contender with numbers of sweeps that were tried; each is prepared and run once."""

    def __init__(self, each: Contender, given: Problems) -> None:
        self.solve = cache(lambda sweeps: each.prepare(given, EPSILON, sweeps))
        self.off = cache(lambda sweeps: _marginals(self.solve(sweeps)(), given))


def _from(guess: int | None, tried: _Tried, target: float) -> int | None:
    """Return the fewest sweeps from ``guess`` on, as rounding may ask for one or two more."""
    if guess is None:
        return None
    counts = range(guess, guess + ROUNDING_SWEEPS + 1)
    return next((sweeps for sweeps in counts if tried.off(sweeps) <= target), None)


def fewest(
    violation: Callable[[int], float], targets: Iterable[float], most: int
) -> list[int | None]:
    """Return for each target the fewest sweeps that meet it; None if ``most`` do not.

    Parameters
    ----------
    violation : sweeps -> marginal error, which falls as sweeps grow
    targets : falling
    """
    seen: dict[int, float] = {}

    def off(sweeps: int) -> float:
        if sweeps not in seen:
            seen[sweeps] = violation(sweeps)
        return seen[sweeps]

    answers: list[int | None] = []
    low = 1
    for target in targets:
        high = low
        while high < most and not off(high) <= target:
            low, high = high + 1, min(2 * high, most)
        if not off(high) <= target:
            answers.append(None)
            continue
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if off(middle) <= target else (middle + 1, high)
        answers.append(low)
    return answers


def sweeps_needed(
    session: Session, regimes: Sequence[data.Regime] = data.REGIMES
) -> list[dict[str, Any]]:
    """Count sweeps on the synthetic regimes, in float64, for both costs of AOT."""
    rows = []
    for regime in regimes:
        tokens = data.video(regime, frames=session.sizes.sweep_frames, dim=COST_DIM)
        for spatial in (False, True):
            given = data.problems(
                tokens, session.sizes.anchors, spatial=spatial, dtype=torch.float64
            )
            rows += count_sweeps(session, regime, spatial, given)
    return rows


def count_sweeps(session: Session, source: str, spatial: bool, given: Problems) -> Rows:
    """Count the sweeps until the worst problem's marginals are off by no more, at each epsilon."""
    rows: Rows = []
    for epsilon in session.sizes.epsilons:
        for method in METHODS:

            def off(sweeps: int, epsilon: float = epsilon, method: Any = method) -> float:
                plan = sinkhorn(
                    given.cost,
                    given.source,
                    given.anchor,
                    epsilon=epsilon,
                    max_iter=sweeps,
                    stop="none",
                    acceleration=method,
                ).plan
                return _marginals(plan, given)

            needed = fewest(off, COUNTED, MOST_SWEEPS)
            rows.append(
                {
                    "source": source,
                    "cost": "cosine + spatial" if spatial else "cosine",
                    "epsilon": epsilon,
                    "method": "plain" if method == "none" else "Chebyshev",
                    "sweeps": {f"{target:g}": n for target, n in zip(COUNTED, needed)},
                    "violation_at_100": off(SWEEPS),
                }
            )
        kernel = torch.exp(-given.cost / epsilon)
        plan, made = released.sinkhorn(kernel, given.source, given.anchor)
        rows.append(
            {
                "source": source,
                "cost": "cosine + spatial" if spatial else "cosine",
                "epsilon": epsilon,
                "method": "released stop",
                "sweeps_made": made,
                "violation": _marginals(plan, given),
            }
        )
    return rows
