"""What a gradient through the plan costs: through every sweep, or at the fixed point alone."""

import statistics
from time import process_time
from typing import Any

import torch

from benchmarks.speed import data
from benchmarks.speed.session import Session, fresh
from benchmarks.speed.solvers import COST_DIM, EPSILON
from tokenred.evaluation.bench.peak_memory import peak_memory
from tokenred.kernels.sinkhorn import sinkhorn

FRAMES = 4
SWEEPS = (25, 50, 100, 200)
WAYS = ("unrolled", "implicit")


def gradients(session: Session) -> list[dict[str, Any]]:
    """Return time and memory of forward and backward, each point in a process of its own."""
    frames = min(FRAMES, session.sizes.frames)
    sweeps = SWEEPS if session.sizes.thorough else SWEEPS[:1]
    rows = []
    for way in WAYS:
        for n in sweeps:
            found = fresh("benchmarks.speed.gradients:point", frames=frames, sweeps=n, way=way)
            rows.append({"way": way, "sweeps": n, "frames": frames, **found})
    return rows


def point(frames: int, sweeps: int, way: Any) -> dict[str, Any]:
    """Measure one point; to be called in a fresh process.

    ``error`` is the L1 distance to the gradient through 1000 sweeps in float64, relative.
    """
    torch.set_num_threads(1)
    given = data.problems(data.video("smooth", frames=frames, dim=COST_DIM), spatial=True)
    weight = torch.randn(given.cost.shape, generator=torch.Generator().manual_seed(1))

    def gradient(cost: torch.Tensor, n: int, how: Any) -> torch.Tensor:
        leaf = cost.clone().requires_grad_()
        plan = sinkhorn(
            leaf,
            given.source.to(cost.dtype),
            given.anchor.to(cost.dtype),
            epsilon=EPSILON,
            max_iter=n,
            stop="none",
            gradient=how,
        ).plan
        (plan * weight.to(cost.dtype)).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    times: list[float] = []

    def run() -> torch.Tensor:
        start = process_time()
        found = gradient(given.cost, sweeps, way)
        times.append((process_time() - start) * 1e3)
        return found

    found = run().double()
    memory = peak_memory(run, torch.device("cpu"))
    exact = gradient(given.cost.double(), 1000, "implicit")
    return {
        "median_ms": statistics.median(times[1:]),
        "extra_bytes": None if memory is None else memory.extra_bytes,
        "error": float((found - exact).abs().sum() / exact.abs().sum()),
    }
