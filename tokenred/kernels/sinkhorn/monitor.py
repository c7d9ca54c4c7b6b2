"""Per-problem convergence test and divergence guard."""

from operator import le, lt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.sinkhorn.problem import Problems, Rules, SweepResult

Kind = Literal["residual", "scaling", "defect"]
GROWTH = 2.0
"""An accelerated problem restarts plainly if its error exceeds the first one by this factor."""
PATIENCE = 32
"""Accelerated sweeps after which the error must have fallen, or acceleration ends."""
SYNC_EVERY = 8
"""Sweeps between two host synchronisations for problems on an accelerator."""


class Monitor:
    """The convergence test of a batch on the CPU, where reading values is cheap.

    ``kept`` holds, for each problem, the anchor scalings from which its closing sweep starts. A
    converged problem is still swept with the others, without effect on its result.
    """

    def __init__(self, problems: Problems, rules: Rules) -> None:
        self.count = len(problems.source)
        self.device = problems.source.device
        self.on: Tensor | None = None
        self._open = [True] * self.count
        self._n_iter = [0] * self.count
        self._done = [False] * self.count
        self._fell = [0] * self.count
        self._restarted = [False] * self.count
        self._limits = {kind: limit.tolist() for kind, limit in _limits(problems, rules).items()}
        self._first: list[float] = []
        self._window: list[float] = []
        self._seen = 0
        self.kept: Tensor | None = None

    def update(self, sweep: int, errors: Float[Tensor, "b"], kind: Kind, scalings: Tensor) -> bool:
        """Record the errors after a sweep; return whether every problem has converged."""
        values, limits = errors.tolist(), self._limits[kind]
        if not any(map(lt, values, limits)):
            return False
        if self.kept is None:
            self.kept = scalings.clone()
        for i, (value, limit) in enumerate(zip(values, limits)):
            if value < limit:
                self.kept[i] = scalings[i]
                self._n_iter[i], self._done[i], self._open[i] = sweep, True, False
                for closed in self._limits.values():
                    closed[i] = -1.0
        return not any(self._open)

    def guard(self, sweep: int, errors: Float[Tensor, "b"]) -> Tensor | None:
        """Check an accelerated sweep for divergence; return the problems to restart, if any."""
        values = errors.tolist()
        self._seen += 1
        if not self._first:
            self._first, self._window = [GROWTH * value for value in values], values
        fallen = []
        if not all(map(le, values, self._first)):  # NaN is not less or equal
            fallen = [i for i, value in enumerate(values) if not value <= self._first[i]]
        restarts = [i for i in fallen if self._open[i] and not self._fell[i]]
        if self._seen % PATIENCE == 0:
            fallen += [i for i, value in enumerate(values) if value >= self._window[i]]
            self._window = values
        fresh = [i for i in fallen if self._open[i] and not self._fell[i]]
        if not fresh:
            return None
        for i in fresh:
            self._fell[i], self._restarted[i] = sweep, i in restarts
        self.on = torch.tensor([not fell for fell in self._fell], device=self.device)
        if not restarts:
            return None
        again = torch.zeros(self.count, dtype=torch.bool)
        again[restarts] = True
        return again.to(self.device)

    def close(self, sweep: int, scalings: Tensor) -> Tensor:
        """Return the scalings for the closing sweeps: ``scalings`` where not converged."""
        if self.kept is None:
            self._n_iter = [sweep] * self.count
            return scalings
        for i, is_open in enumerate(self._open):
            if is_open:
                self.kept[i], self._n_iter[i] = scalings[i], sweep
        return self.kept

    def run(self) -> SweepResult:
        """Return what happened."""
        return SweepResult(
            torch.tensor(self._n_iter, device=self.device),
            torch.tensor(self._done, dtype=torch.bool, device=self.device),
            torch.tensor(self._fell, device=self.device),
            torch.tensor(self._restarted, dtype=torch.bool, device=self.device),
        )


class DeviceMonitor:
    """The convergence test on an accelerator; the host reads the result every few sweeps."""

    def __init__(self, problems: Problems, rules: Rules) -> None:
        device, count = problems.source.device, len(problems.source)
        self.kept: Tensor | None = None
        self.on: Tensor | None = torch.ones(count, dtype=torch.bool, device=device)
        self._limits = _limits(problems, rules)
        self._n_iter = torch.zeros(count, dtype=torch.long, device=device)
        self._done = torch.zeros(count, dtype=torch.bool, device=device)
        self._fell = torch.zeros(count, dtype=torch.long, device=device)
        self._restarted = torch.zeros(count, dtype=torch.bool, device=device)
        self._first: Tensor | None = None
        self._window: Tensor | None = None
        self._seen = 0

    def update(self, sweep: int, errors: Float[Tensor, "b"], kind: Kind, scalings: Tensor) -> bool:
        """Record the errors after a sweep; return whether every problem is known to be done."""
        met = (errors < self._limits[kind]) & ~self._done
        self.kept = scalings.clone() if self.kept is None else self.kept
        self.kept = torch.where(_as(met, scalings), scalings, self.kept)
        self._n_iter = self._n_iter.masked_fill(met, sweep)
        self._done = self._done | met
        return sweep % SYNC_EVERY == 0 and bool(self._done.all())

    def guard(self, sweep: int, errors: Float[Tensor, "b"]) -> Tensor | None:
        """Check an accelerated sweep for divergence; return the problems to restart."""
        self._seen += 1
        if self._first is None or self._window is None:
            self._first, self._window = GROWTH * errors, errors
        can = ~self._done & (self._fell == 0)
        restarts = can & ~(errors <= self._first)
        fresh = restarts
        if self._seen % PATIENCE == 0:
            fresh = fresh | (can & (errors >= self._window))
            self._window = errors
        self._fell = self._fell.masked_fill(fresh, sweep)
        self._restarted = self._restarted | restarts
        self.on = self._fell == 0
        return restarts

    def close(self, sweep: int, scalings: Tensor) -> Tensor:
        """Return the scalings for the closing sweeps: ``scalings`` where not converged."""
        self._n_iter = self._n_iter.where(self._done, sweep)
        if self.kept is None:
            return scalings
        return torch.where(_as(self._done, scalings), self.kept, scalings)

    def run(self) -> SweepResult:
        """Return what happened."""
        return SweepResult(self._n_iter, self._done, self._fell, self._restarted)


def new_monitor(problems: Problems, rules: Rules) -> Monitor | DeviceMonitor:
    """Return the monitor for the device."""
    kind = Monitor if problems.source.device.type == "cpu" else DeviceMonitor
    return kind(problems, rules)


def _as(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *(1,) * (like.ndim - 1))


def _limits(problems: Problems, rules: Rules) -> dict[Kind, Tensor]:
    free = problems.source if rules.last == "anchor" else problems.anchor
    residual = rules.tolerance * free.amax(-1)
    # The next sums of the free side differ from its masses by means of exp(defect) - 1.
    defect = torch.full_like(residual, rules.tolerance).log1p()
    scaling = torch.full_like(residual, rules.tolerance)
    never = torch.full_like(residual, -1.0)
    stops = rules.stop == "residual"
    return {
        "residual": residual if stops else never,
        "defect": defect if stops else never.clone(),
        "scaling": never.clone() if stops else scaling,
    }
