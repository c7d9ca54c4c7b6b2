"""The kernel domain: scalings of ``K = exp(-C / epsilon)``; fast, for moderate ranges."""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.sinkhorn.fold import fold
from tokenred.kernels.sinkhorn.problem import Problems, Rules
from tokenred.kernels.sinkhorn.sweeps import Scalings, mean_change


class KernelScalings(Scalings):
    """Products of row vectors with one kernel matrix, without a new tensor in any sweep.

    The kernel lies anchors by sources, ``(b, anchors, sources)``: that is how a GEMM of anchors
    with tokens leaves the cost, and BLAS multiplies either way from it, at the speed of the cache.
    State has the shape ``(b, 1, n)``, for ``bmm``.

    Padding has entries of one in the kernel and a mass of zero, so its scalings are zero, exactly,
    and no sum is empty.
    """

    def __init__(self, problems: Problems, rules: Rules, room: Float[Tensor, "2 b m n"]) -> None:
        self.kernel, self.work = room
        torch.div(problems.cost.mT, -problems.epsilon, out=self.kernel).exp_()
        self.by_anchors = self.kernel.mT
        self.source, self.anchor = problems.source[:, None], problems.anchor[:, None]
        self.r, self.c = (self.source > 0).to(self.source), (self.anchor > 0).to(self.anchor)
        self.r_before, self.c_before = torch.empty_like(self.r), torch.empty_like(self.c)
        self.source_sums, self.anchor_sums = torch.empty_like(self.r), torch.empty_like(self.c)
        self.off_source, self.off_anchor = torch.empty_like(self.r), torch.empty_like(self.c)
        self.real = problems.real_sources()
        if rules.rho is not None:
            # One on padding, so that its defect is log(1 / 1).
            self.padding = 1 - self.c
            self.target = self.anchor + self.padding
            self.defect, self.move = torch.empty_like(self.c), torch.zeros_like(self.c)
            self.start = self.c.clone()

    def begin_with_sources(self) -> None:
        """Scale the anchors from ``r = 1``."""
        self.sum_anchors()
        self.scale_anchors()
        self.start = self.c.clone()

    def sum_sources(self) -> None:
        """Multiply ``c`` with the kernel."""
        torch.bmm(self.c, self.kernel, out=self.source_sums)

    def source_error(self) -> Tensor:
        """Compare what sources shipped with their masses."""
        torch.addcmul(self.source, self.r, self.source_sums, value=-1, out=self.off_source)
        return self.off_source.abs_().amax((-2, -1))

    def scale_sources(self) -> None:
        """Set ``r``."""
        self.r, self.r_before = self.r_before, self.r
        torch.div(self.source, self.source_sums, out=self.r)

    def change(self, whole: bool) -> Tensor:
        """Compare ``r`` with the one before."""
        torch.sub(self.r, self.r_before, out=self.off_source)
        return mean_change(self.off_source.abs_().sum((-2, -1)), self.real, whole)

    def sum_anchors(self) -> None:
        """Multiply ``r`` with the kernel."""
        torch.bmm(self.r, self.by_anchors, out=self.anchor_sums)

    def anchor_error(self) -> Tensor:
        """Compare what anchors received with their masses."""
        torch.addcmul(self.anchor, self.c, self.anchor_sums, value=-1, out=self.off_anchor)
        return self.off_anchor.abs_().amax((-2, -1))

    def scale_anchors(self) -> None:
        """Set ``c``."""
        self.c, self.c_before = self.c_before, self.c
        torch.div(self.anchor, self.anchor_sums, out=self.c)

    def defect_error(self) -> Tensor:
        """Compare ``log c`` with what a plain step would make it."""
        torch.addcmul(self.padding, self.c, self.anchor_sums, out=self.defect)
        torch.div(self.target, self.defect, out=self.defect).log_()
        torch.abs(self.defect, out=self.off_anchor)
        return self.off_anchor.amax((-2, -1))

    def move_anchors(self, momentum: float, step: float, on: Tensor | None) -> None:
        """Move ``log c``."""
        if on is None:
            self.move.mul_(momentum).add_(self.defect, alpha=step)
        else:
            fast = momentum * self.move + step * self.defect
            torch.where(on[:, None, None], fast, self.defect, out=self.move)
        torch.exp(self.move, out=self.off_anchor)
        self.c.mul_(self.off_anchor)

    def restart(self, which: Tensor) -> None:
        """Put ``c`` back."""
        self.c.copy_(torch.where(which[:, None, None], self.start, self.c))
        self.move.masked_fill_(which[:, None, None], 0.0)

    def here(self) -> Tensor:
        """Return ``c``."""
        return self.c

    def before(self) -> Tensor:
        """Return ``c`` of the sweep before."""
        return self.c_before

    def finish(self, anchors: Tensor, last: str, plan: Tensor) -> None:
        """Sum the sources by halves and write the plan."""
        sums = fold(torch.mul(self.kernel, anchors.mT, out=self.work))
        r, c = self.source / sums[:, None], anchors
        if last == "anchor":
            c = self.anchor / torch.bmm(r, self.by_anchors)
        torch.mul(self.kernel, r, out=plan.mT).mul_(c.mT)
