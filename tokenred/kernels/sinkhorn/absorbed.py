"""The absorbed domain: products with a kernel that has taken in the log scalings so far."""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.sinkhorn.fold import fold
from tokenred.kernels.sinkhorn.logarithm import LogScalings
from tokenred.kernels.sinkhorn.problem import Problems, Rules

DRIFT = 10.0
"""Log scalings further than this from those in the kernel are absorbed."""
TRUST = 40.0
"""Sums of the kernel are believed as long as they are off the masses by e^40 at most."""
EXACT_SWEEPS = 2
"""Sweeps by logsumexp before the first absorption: the first move the scalings most."""


class AbsorbedScalings(LogScalings):
    """``logsumexp`` through products with ``exp(f0 + g0 - C / epsilon)``.

    Why that is right for every range: the kernel is the plan at the time of the last absorption.
    What float32 loses of it are entries below e^-87. A scaling that has drifted by e^10 at most
    makes less than e^-77 of them, and a sum that is believed is at least e^-40 of a mass, so all
    lost entries together are less than ``n e^-37`` of it, below rounding. A sum that is too small
    or too large for that, in the first sweeps on a very wide cost, is formed again by logsumexp;
    the scaling made from it has drifted, and is absorbed before it multiplies anything.

    The decisions are read from the device in each half sweep.
    """

    def __init__(self, problems: Problems, rules: Rules, room: Float[Tensor, "3 b m n"]) -> None:
        super().__init__(problems, rules, room[:2])
        self.kernel = room[2]
        self.padded_source, self.padded_anchor = self.source <= 0, self.anchor <= 0
        self.sums_left = 2 * EXACT_SWEEPS
        self.f0 = self.g0 = torch.empty(0)

    def over_anchors(self, g: Tensor) -> Tensor:
        """Sum through the kernel, or by ``logsumexp`` where that is not safe."""
        if self._takes_logsumexp():
            return super().over_anchors(g)
        self._absorb_if_drifted()
        sums = torch.bmm((g - self.g0).to(self.kernel).exp_()[:, None], self.kernel)[:, 0]
        ratio = sums.double().log_()
        off = (self.log_source - ratio).masked_fill_(self.padded_source, 0.0)
        if not float(off.abs_().max()) <= TRUST:
            return super().over_anchors(g)
        return (ratio - self.f0).masked_fill_(self.padded_source, 0.0)

    def over_sources(self, f: Tensor) -> Tensor:
        """Sum through the kernel, or by ``logsumexp`` where that is not safe."""
        if self._takes_logsumexp():
            return super().over_sources(f)
        self._absorb_if_drifted()
        sums = torch.bmm((f - self.f0).to(self.kernel).exp_()[:, None], self.kernel.mT)[:, 0]
        ratio = sums.double().log_()
        off = (self.log_anchor - ratio).masked_fill_(self.padded_anchor, 0.0)
        if not float(off.abs_().max()) <= TRUST:
            return super().over_sources(f)
        return (ratio - self.g0).masked_fill_(self.padded_anchor, 0.0)

    def finish(self, anchors: Tensor, last: str, plan: Tensor) -> None:
        """Sum the sources by halves and write the plan."""
        f = self.close_sources(anchors)
        self._absorb(f, anchors)
        # The plan's marginals are then exact to the rounding of a product, not of f + g - C.
        r = self.source.to(self.kernel) / fold(self.work.copy_(self.kernel))
        r.masked_fill_(self.padded_source, 0.0)
        c = torch.ones_like(self.anchor).to(self.kernel)
        if last == "anchor":
            sums = torch.bmm(r[:, None], self.kernel.mT)[:, 0]
            c = (self.anchor.to(self.kernel) / sums).masked_fill_(self.padded_anchor, 0.0)
        if not float(torch.maximum(r.max(), c.max()).log()) <= TRUST:
            super().finish(anchors, last, plan)
            return
        torch.mul(self.kernel, r[:, None, :], out=plan.mT).mul_(c[:, :, None])

    def _takes_logsumexp(self) -> bool:
        self.sums_left -= 1
        if self.sums_left == -1:
            self._absorb(self.f, self.g)
        return self.sums_left >= 0

    def _absorb_if_drifted(self) -> None:
        drift = max(float((self.f - self.f0).abs().max()), float((self.g - self.g0).abs().max()))
        if not drift <= DRIFT:
            self._absorb(self.f, self.g)

    def _absorb(self, f: Tensor, g: Tensor) -> None:
        self.f0, self.g0 = f, g
        torch.sub(g.to(self.kernel)[:, :, None], self.scaled, out=self.kernel)
        self.kernel.add_(f.to(self.kernel)[:, None, :]).exp_()
