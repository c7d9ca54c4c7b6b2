"""The Sinkhorn loop for every domain: the order of updates, and when convergence is tested."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.sinkhorn.chebyshev import PLAIN_SWEEPS, factors
from tokenred.kernels.sinkhorn.monitor import DeviceMonitor, Monitor, new_monitor
from tokenred.kernels.sinkhorn.problem import Problems, Rules, SweepResult


class Scalings(ABC):
    """The arithmetic of some problems in one domain.

    ``r`` and ``c`` are the scalings of sources and anchors. A sum of one side is what its total in
    the plan would be with a scaling of one. Methods with the word ``error`` return ``(b,)``.
    """

    @abstractmethod
    def begin_with_sources(self) -> None:
        """Start from ``r = 1``: the first anchor scalings meet the anchors' marginal."""

    @abstractmethod
    def sum_sources(self) -> None:
        """Form the sums of the sources from ``c``."""

    @abstractmethod
    def source_error(self) -> Float[Tensor, "b"]:
        """Return how far ``r`` from before these sums is off the sources' marginal, at worst."""

    @abstractmethod
    def scale_sources(self) -> None:
        """Set ``r`` from the sums."""

    @abstractmethod
    def change(self, whole: bool) -> Float[Tensor, "b"]:
        """Return the mean absolute change of ``r`` over real sources, or that of the batch."""

    @abstractmethod
    def sum_anchors(self) -> None:
        """Form the sums of the anchors from ``r``."""

    @abstractmethod
    def anchor_error(self) -> Float[Tensor, "b"]:
        """Return how far ``c`` from before these sums is off the anchors' marginal, at worst."""

    @abstractmethod
    def scale_anchors(self) -> None:
        """Set ``c`` from the sums."""

    @abstractmethod
    def defect_error(self) -> Float[Tensor, "b"]:
        """Form and return the largest change that ``scale_anchors`` would make to ``log c``."""

    @abstractmethod
    def move_anchors(self, momentum: float, step: float, on: Tensor | None) -> None:
        """Move ``log c`` by ``momentum`` times the last move and ``step`` times the defect.

        Problems that are not ``on`` make the plain step.
        """

    @abstractmethod
    def restart(self, which: Tensor) -> None:
        """Put some problems back to the start, in place of a move."""

    @abstractmethod
    def here(self) -> Tensor:
        """Return ``c`` in a form that ``finish`` takes."""

    @abstractmethod
    def before(self) -> Tensor:
        """Return ``c`` from before ``scale_anchors``, in a form that ``finish`` takes."""

    @abstractmethod
    def finish(self, anchors: Tensor, last: str, plan: Float[Tensor, "b sources anchors"]) -> None:
        """Write the plan of a last half sweep or sweep from ``anchors``.

        It sums every source in the same order: equal rows get equal scalings to the last bit, or
        duplicates (newline tokens) would straddle a quantile of their own scores.
        """


def mean_change(
    total: Float[Tensor, "b"], real: Float[Tensor, "b"], whole: bool
) -> Float[Tensor, "b"]:
    """Return total changes as means over real sources, of each problem or of the whole batch."""
    if whole:
        return (total.sum() / real.sum().clamp_min(1)).expand(total.shape)
    return total / real.clamp_min(1)


def iterate(
    scalings: Scalings, problems: Problems, rules: Rules, plan: Float[Tensor, "b sources anchors"]
) -> SweepResult:
    """Sweep until every problem converges, then write the final sweep into ``plan``."""
    monitor = new_monitor(problems, rules)
    sweep = _sweep(scalings, rules, monitor)
    scalings.finish(monitor.close(sweep, scalings.here()), rules.last, plan)
    return monitor.run()


def is_plain(rules: Rules, sweep: int) -> bool:
    """Return whether the anchors are scaled in this sweep, not moved."""
    return rules.rho is None or sweep <= PLAIN_SWEEPS


def _sweep(scalings: Scalings, rules: Rules, monitor: Monitor | DeviceMonitor) -> int:
    """Return the number of sweeps made; ``here`` is where the last of them starts.

    A residual is read off the sums that the next half sweep needs anyway. An accelerated sweep has
    moved the anchors elsewhere by then, so there the defect is bounded instead: the closing sweep
    multiplies what each anchor has of a source by exp(defect), hence no source is off by more than
    the largest |exp(defect) - 1| of its mass.
    """
    residual, anchors_last = rules.stop == "residual", rules.last == "anchor"
    moves = None if rules.rho is None else factors(rules.rho)
    if not anchors_last:
        scalings.begin_with_sources()
    for sweep in range(1, rules.max_iter + 1):
        scalings.sum_sources()
        if residual and anchors_last and sweep > 1 and is_plain(rules, sweep - 1):
            error = scalings.source_error()
            if monitor.update(sweep - 1, error, "residual", scalings.before()):
                break
        scalings.scale_sources()
        if rules.stop in ("scaling", "scaling-batch"):
            change = scalings.change(rules.stop == "scaling-batch")
            if monitor.update(sweep, change, "scaling", scalings.here()):
                break
        # With sources last, the anchors that are scaled now belong to the next sweep.
        plain = moves is None or is_plain(rules, sweep if anchors_last else sweep + 1)
        final = sweep == rules.max_iter
        if final and (not residual or (anchors_last and plain)):
            break
        scalings.sum_anchors()
        if not plain:
            error = scalings.defect_error()
            if anchors_last and monitor.update(sweep, error, "defect", scalings.here()):
                break
        if not anchors_last and residual:
            error = scalings.anchor_error()
            if monitor.update(sweep, error, "residual", scalings.here()):
                break
        if final:
            break
        if plain or moves is None:
            scalings.scale_anchors()
            continue
        again = monitor.guard(sweep, error)
        scalings.move_anchors(*next(moves), monitor.on)
        if again is not None:
            scalings.restart(again)
    return sweep
