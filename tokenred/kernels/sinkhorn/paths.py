"""Where a solution is computed: in torch, chunk by chunk, or by native code or Triton."""

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels import paths
from tokenred.kernels.sinkhorn.absorbed import AbsorbedScalings
from tokenred.kernels.sinkhorn.kernel import KernelScalings
from tokenred.kernels.sinkhorn.logarithm import LogScalings
from tokenred.kernels.sinkhorn.problem import Domain, Problems, Rules, SweepResult
from tokenred.kernels.sinkhorn.sweeps import iterate

CACHE = 2**20
"""Bytes of kernel matrix in one chunk: what the second-level cache of a core holds."""
SCALINGS: dict[Domain, tuple[type[LogScalings] | type[KernelScalings], int]] = {
    "kernel": (KernelScalings, 2),
    "absorbed": (AbsorbedScalings, 3),
    "log": (LogScalings, 2),
}
"""The arithmetic of a domain, and the matrices that it works in."""


@torch.no_grad()
def solve(
    problems: Problems, rules: Rules, domain: Domain
) -> tuple[Float[Tensor, "b sources anchors"], SweepResult]:
    """Return plans and what happened, without a graph, by the fastest path that is there."""
    if domain == "kernel":
        for path in ("native", "triton"):
            if _serves(path, problems, rules):
                found = _foreign(path, problems, rules)
                if found is not None:
                    return found
    return _torch(problems, rules, domain)


def _serves(path: str, problems: Problems, rules: Rules) -> bool:
    """Return whether a path may try; Triton must be asked for, as no GPU has tested it yet."""
    wanted, cost = paths.wanted(), problems.cost
    if rules.stop == "scaling-batch":
        # Native code would count the sources of empty problems in the mean; Triton has no mean.
        empty = problems.empty is not None and bool(problems.empty.any())
        if empty or path == "triton":
            return False
    if cost.dtype != torch.float32:
        return False
    if path == "native":
        return wanted in ("auto", "native") and cost.device.type == "cpu"
    return wanted == "triton"


def _foreign(path: str, problems: Problems, rules: Rules) -> tuple[Tensor, SweepResult] | None:
    name = "tokenred.kernels.native" if path == "native" else "tokenred.kernels.triton.sinkhorn"
    try:
        module: Any = import_module(name)
    except ImportError:
        return None
    # Native code divides by epsilon as it reads, so that the cost is not copied.
    divides: dict[str, float] = {"epsilon": problems.epsilon} if path == "native" else {}
    found = module.solve(
        problems.cost if divides else problems.cost / problems.epsilon,
        problems.source,
        problems.anchor,
        max_iter=rules.max_iter,
        stop=rules.stop,
        tolerance=rules.tolerance,
        last=rules.last,
        rho=rules.rho,
        **divides,
    )
    if found is None:
        return None
    never = torch.zeros_like(found.done)
    fell = never.long() if found.fell is None else found.fell
    restarted = never if found.restarted is None else found.restarted
    return found.plan, SweepResult(found.n_iter.long(), found.done, fell, restarted)


def _torch(problems: Problems, rules: Rules, domain: Domain) -> tuple[Tensor, SweepResult]:
    """Solve some problems at a time, as many as the cache holds.

    ``scaling-batch`` has one decision for the whole batch, hence one chunk; an accelerator has the
    whole batch on chip or nothing.
    """
    cost, (kind, matrices) = problems.cost, SCALINGS[domain]
    count, n, m = cost.shape
    size = count
    if cost.device.type == "cpu" and rules.stop != "scaling-batch":
        size = min(count, max(1, CACHE // (n * m * cost.element_size())))
    plan = torch.empty_like(cost)
    room = cost.new_empty(matrices, size, m, n)
    runs = []
    for first in range(0, count, size):
        part = problems[first : first + size]
        here = room[:, : len(part.cost)]
        out = plan[first : first + size]
        runs.append(iterate(kind(part, rules, here), part, rules, out))
    return plan, SweepResult.join(runs)
