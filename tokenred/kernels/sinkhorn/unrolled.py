"""The gradient through the sweeps: exact for what was computed."""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.sinkhorn.chebyshev import factors
from tokenred.kernels.sinkhorn.logarithm import NOTHING, log_mass
from tokenred.kernels.sinkhorn.problem import Domain, Problems, Rules, SweepResult
from tokenred.kernels.sinkhorn.sweeps import is_plain


def replay(
    problems: Problems, rules: Rules, run: SweepResult, domain: Domain
) -> Float[Tensor, "b sources anchors"]:
    """Make the sweeps of a run again, in plain differentiable torch, and return the plans.

    How many sweeps a problem makes was decided without a graph, so that carries no gradient.
    The absorbed domain is replayed in the log domain, which is the same but for rounding. Memory
    grows with the sweeps.
    """
    sweeps = (_KernelSweeps if domain == "kernel" else _LogSweeps)(problems)
    r, c = sweeps.ones()
    kept_r, kept_c = r, c
    anchors_last = rules.last == "anchor"
    if not anchors_last:
        c = sweeps.anchors(r)
    start, move = c, torch.zeros_like(c)
    moves = None if rules.rho is None else factors(rules.rho)
    n_iter, fell = run.n_iter[:, None], run.fell[:, None]
    total = int(n_iter.max())
    for sweep in range(1, total + 1):
        r = sweeps.sources(c)
        target = sweeps.anchors(r) if anchors_last or sweep < total else c
        closing = n_iter == sweep
        kept_r = r.where(closing, kept_r)
        kept_c = (target if anchors_last else c).where(closing, kept_c)
        if moves is None or is_plain(rules, sweep if anchors_last else sweep + 1):
            c = target
            continue
        momentum, step = next(moves)
        defect = sweeps.defect(target, c)
        plain = (fell > 0) & (fell <= sweep)
        move = defect.where(plain, momentum * move + step * defect)
        c = sweeps.moved(c, move)
        again = (fell == sweep) & run.restarted[:, None]
        c, move = start.where(again, c), move.masked_fill(again, 0.0)
    return sweeps.plan(kept_r, kept_c)


class _KernelSweeps:
    def __init__(self, problems: Problems) -> None:
        self.kernel = torch.exp(-problems.cost / problems.epsilon)
        self.source, self.anchor = problems.source, problems.anchor
        self.padding = (self.anchor <= 0).to(self.anchor)

    def ones(self) -> tuple[Tensor, Tensor]:
        return (self.source > 0).to(self.source), (self.anchor > 0).to(self.anchor)

    def sources(self, c: Tensor) -> Tensor:
        return self.source / (self.kernel * c[:, None, :]).sum(-1)

    def anchors(self, r: Tensor) -> Tensor:
        return self.anchor / (r[:, None, :] @ self.kernel)[:, 0]

    def defect(self, target: Tensor, c: Tensor) -> Tensor:
        return ((target + self.padding) / (c + self.padding)).log()

    def moved(self, c: Tensor, move: Tensor) -> Tensor:
        return c * move.exp()

    def plan(self, r: Tensor, c: Tensor) -> Tensor:
        return r[:, :, None] * self.kernel * c[:, None, :]


class _LogSweeps:
    def __init__(self, problems: Problems) -> None:
        self.scaled = problems.cost / problems.epsilon
        self.source, self.anchor = log_mass(problems.source), log_mass(problems.anchor)

    def ones(self) -> tuple[Tensor, Tensor]:
        masses = self.source.detach(), self.anchor.detach()
        f, g = (torch.zeros_like(m).where(m > NOTHING, NOTHING) for m in masses)
        return f, g

    def sources(self, g: Tensor) -> Tensor:
        return self.source - torch.logsumexp(g[:, None, :] - self.scaled, -1)

    def anchors(self, f: Tensor) -> Tensor:
        return self.anchor - torch.logsumexp(f[:, :, None] - self.scaled, -2)

    def defect(self, target: Tensor, g: Tensor) -> Tensor:
        return target - g

    def moved(self, g: Tensor, move: Tensor) -> Tensor:
        return g + move

    def plan(self, f: Tensor, g: Tensor) -> Tensor:
        return torch.exp(f[:, :, None] - self.scaled + g[:, None, :])
