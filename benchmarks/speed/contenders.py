"""Everybody who solves the same couplings: the cost goes in, the plan comes out.

A contender prepares itself for a batch of problems (its own arrays, compilation) outside the clock,
and returns a call that is timed: kernel, sweeps, plan. One sweep updates both sides; all start from
ones. Peers are used through their public functions, with the checks that they cannot be told to
leave out. A peer that is not installed is listed as such.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.speed import released
from benchmarks.speed.data import Problems
from tokenred.kernels import paths
from tokenred.kernels.sinkhorn import sinkhorn

Group = Literal["ours", "released", "peer", "formulation"]
Solve = Callable[[], Tensor]
Prepare = Callable[[Problems, float, int], Solve]
"""(problems, epsilon, sweeps) -> a call that returns the plan, (frames, sources, anchors)."""

SWEEPS = 100
NEVER = 1e-38
"""A tolerance that no residual meets: peers have no switch that turns their stop test off."""


@dataclass(frozen=True)
class Contender:
    """One implementation.

    Attributes
    ----------
    name : as printed
    package : what it comes from, on PyPI; None for what this repository holds
    stops : whether it stops by a rule of its own, whatever number of sweeps it is asked for
    exact : whether it solves the problem without entropy
    other_schedule : why its plan after as many sweeps is another one; empty if it is the same
    """

    name: str
    group: Group
    prepare: Prepare
    package: str | None = None
    stops: bool = False
    exact: bool = False
    other_schedule: str = ""

    @property
    def missing(self) -> str | None:
        """Why it cannot be run; None if it can."""
        if self.package is None:
            return None
        try:
            found = version(self.package)
            import_module(_MODULES.get(self.package, self.package))
        except (PackageNotFoundError, ImportError):
            return f"{self.package} is not installed"
        return None if found else f"{self.package} has no version"


_MODULES = {"POT": "ot", "ott-jax": "ott"}


def ours(path: paths.Path, *, accelerated: bool = False) -> Prepare:
    """Return the shipped function on one path; ``accelerated``: by Chebyshev's recurrence."""

    def prepare(problems: Problems, epsilon: float, sweeps: int) -> Solve:
        cost = _as_the_frame_stage(problems.cost)

        def solve() -> Tensor:
            with paths.use(path):
                return sinkhorn(
                    cost,
                    problems.source,
                    problems.anchor,
                    epsilon=epsilon,
                    max_iter=sweeps,
                    stop="none",
                    acceleration="chebyshev" if accelerated else "none",
                ).plan

        return solve

    return prepare


def _as_the_frame_stage(cost: Tensor) -> Tensor:
    """Lay the cost out as the frame stage makes it: anchors x sources, seen from the other side."""
    return cost.mT.contiguous().mT


def stopping(path: paths.Path, tolerance: float) -> Prepare:
    """Return the shipped function as users run it: it stops each problem at its residual."""

    def prepare(problems: Problems, epsilon: float, sweeps: int) -> Solve:
        cost = _as_the_frame_stage(problems.cost)

        def solve() -> Tensor:
            with paths.use(path):
                return sinkhorn(
                    cost,
                    problems.source,
                    problems.anchor,
                    epsilon=epsilon,
                    max_iter=sweeps,
                    stop="residual",
                    tolerance=tolerance,
                ).plan

        return solve

    return prepare


@cache
def native_is_built() -> bool:
    """Say whether the native kernel runs here."""
    try:
        native = import_module("tokenred.kernels.native")
    except ImportError:
        return False
    cost = torch.rand(1, 8, 4)
    solved = native.solve(
        cost,
        torch.full((1, 8), 1 / 8),
        torch.full((1, 4), 1 / 4),
        max_iter=2,
        stop="none",
        tolerance=1e-3,
        last="anchor",
        rho=None,
    )
    return solved is not None


def _released(tolerance: float | None, problems: Problems, epsilon: float, sweeps: int) -> Solve:
    def solve() -> Tensor:
        kernel = torch.exp(-problems.cost / epsilon)
        return released.sinkhorn(kernel, problems.source, problems.anchor, sweeps, tolerance)[0]

    return solve


def _pot_loop(method: str, numpy: bool, problems: Problems, epsilon: float, sweeps: int) -> Solve:
    import ot

    given = problems.cost, problems.source, problems.anchor
    cost, source, anchor = (each.numpy() if numpy else each for each in given)

    def solve() -> Tensor:
        plans = [
            ot.sinkhorn(
                b,
                a,
                one.T,
                epsilon,
                method=method,
                numItermax=sweeps,
                stopThr=0.0,
                warn=False,
            ).T
            for one, a, b in zip(cost, source, anchor)
        ]
        return torch.stack([torch.as_tensor(plan) for plan in plans])

    return solve


def _pot_batch(method: str, problems: Problems, epsilon: float, sweeps: int) -> Solve:
    from ot.batch import solve_batch

    cost = problems.cost.mT.contiguous()
    return lambda: (
        solve_batch(
            cost,
            epsilon,
            problems.anchor,
            problems.source,
            max_iter=sweeps,
            tol=NEVER,
            method=method,
            grad="detach",
        ).plan.mT
    )


def _pot_emd(problems: Problems, epsilon: float, sweeps: int) -> Solve:
    import ot

    cost = [one.numpy() for one in problems.cost.double()]
    masses = [(a.numpy(), b.numpy()) for a, b in zip(*_exactly_equal(problems))]

    def solve() -> Tensor:
        plans = [ot.emd(a, b, one) for one, (a, b) in zip(cost, masses)]
        return torch.stack([torch.as_tensor(plan) for plan in plans])

    return solve


def _exactly_equal(problems: Problems) -> tuple[Tensor, Tensor]:
    sides = problems.source.double(), problems.anchor.double()
    return tuple(side / side.sum(-1, keepdim=True) for side in sides)  # type: ignore[return-value]


def _ott(lse: bool, problems: Problems, epsilon: float, sweeps: int) -> Solve:
    import jax
    import numpy as np
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn as ott_sinkhorn

    given = problems.cost, problems.source, problems.anchor
    arrays = [jax.numpy.asarray(each.numpy()) for each in given]
    solver = ott_sinkhorn.Sinkhorn(
        lse_mode=lse,
        threshold=NEVER,
        min_iterations=sweeps,
        max_iterations=sweeps,
        inner_iterations=sweeps,
    )

    def one(cost: Any, source: Any, anchor: Any) -> Any:
        shape = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        return solver(linear_problem.LinearProblem(shape, source, anchor)).matrix

    batched = jax.jit(jax.vmap(one))
    return lambda: torch.from_numpy(np.array(batched(*arrays).block_until_ready()))


def _geomloss(problems: Problems, epsilon: float, sweeps: int) -> Solve:
    from geomloss import ot

    return lambda: (
        ot.solve_batch(
            problems.cost,
            reg=epsilon,
            a=problems.source,
            b=problems.anchor,
            max_iter=sweeps,
        ).plan
    )


def _both_ways(problems: Problems, epsilon: float, sweeps: int) -> Solve:
    """Write down the textbook: two batched matrix-vector products a sweep."""

    def solve() -> Tensor:
        kernel = torch.exp(-problems.cost / epsilon)
        turned = kernel.mT
        r, c = torch.ones_like(problems.source), torch.ones_like(problems.anchor)
        for _ in range(sweeps):
            r = problems.source / (kernel @ c[..., None])[..., 0]
            c = problems.anchor / (turned @ r[..., None])[..., 0]
        return r[..., :, None] * kernel * c[..., None, :]

    return solve


def _log_domain(problems: Problems, epsilon: float, sweeps: int) -> Solve:
    def solve() -> Tensor:
        scaled = problems.cost / -epsilon
        log_source, log_anchor = problems.source.log(), problems.anchor.log()
        g = torch.zeros_like(log_anchor)
        for _ in range(sweeps):
            f = log_source - torch.logsumexp(scaled + g[..., None, :], -1)
            g = log_anchor - torch.logsumexp(scaled + f[..., :, None], -2)
        return torch.exp(scaled + f[..., :, None] + g[..., None, :])

    return solve


OURS_TORCH, OURS_NATIVE = "tokenred, torch", "tokenred, native"
FAST_TORCH, FAST_NATIVE = "tokenred, torch, Chebyshev", "tokenred, native, Chebyshev"
RELEASED, RELEASED_STOP = "released formulation, no stop", "released formulation, its stop"
POT_BATCH, POT_BATCH_LOG = "POT solve_batch, sinkhorn", "POT solve_batch, log"
OTT_KERNEL, OTT_LSE = "ott-jax, kernel mode", "ott-jax, lse mode"
GEOMLOSS = "geomloss solve_batch"
POT_LOOPS = ("POT sinkhorn, numpy loop", "POT sinkhorn, torch loop", "POT stabilized, numpy loop")
NATIVE_TEXT = "the native kernel is not built"


def contenders() -> Iterator[Contender]:
    """Return all, ours first; whether each can run is in ``missing``."""
    yield Contender(OURS_NATIVE, "ours", ours("native"))
    yield Contender(OURS_TORCH, "ours", ours("torch"))
    yield Contender(RELEASED, "released", partial(_released, None))
    yield Contender(RELEASED_STOP, "released", partial(_released, released.TOLERANCE), stops=True)
    yield Contender(POT_LOOPS[0], "peer", partial(_pot_loop, "sinkhorn", True), "POT")
    yield Contender(POT_LOOPS[1], "peer", partial(_pot_loop, "sinkhorn", False), "POT")
    yield Contender(POT_LOOPS[2], "peer", partial(_pot_loop, "sinkhorn_stabilized", True), "POT")
    yield Contender(POT_BATCH, "peer", partial(_pot_batch, "sinkhorn"), "POT")
    yield Contender(POT_BATCH_LOG, "peer", partial(_pot_batch, "log_sinkhorn"), "POT")
    yield Contender("POT emd, exact, float64", "peer", _pot_emd, "POT", exact=True)
    yield Contender(OTT_KERNEL, "peer", partial(_ott, False), "ott-jax")
    yield Contender(OTT_LSE, "peer", partial(_ott, True), "ott-jax")
    yield Contender(
        GEOMLOSS, "peer", _geomloss, "geomloss", other_schedule="anneals epsilon on the way"
    )
    yield Contender("torch, batched products both ways", "formulation", _both_ways)
    yield Contender("torch, log domain", "formulation", _log_domain)


def accelerated() -> Iterator[Contender]:
    """Return ours with Chebyshev's recurrence, which needs fewer sweeps."""
    yield Contender(FAST_NATIVE, "ours", ours("native", accelerated=True))
    yield Contender(FAST_TORCH, "ours", ours("torch", accelerated=True))


def usable(found: Iterable[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Return those that run here, and for the others why not."""
    runs, absent = [], {}
    for each in found:
        reason = each.missing
        if each.name in (OURS_NATIVE, FAST_NATIVE) and not native_is_built():
            reason = NATIVE_TEXT
        if reason is None:
            runs.append(each)
        else:
            absent[each.name] = reason
    return runs, absent
