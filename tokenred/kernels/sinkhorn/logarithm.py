"""The log domain: logarithms of the scalings; slower, right for every range of the cost."""

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.sinkhorn.fold import fold
from tokenred.kernels.sinkhorn.problem import Problems, Rules
from tokenred.kernels.sinkhorn.sweeps import Scalings, mean_change

NOTHING = -1e30
"""Logarithm of the mass of padding: it rounds away all that is added to it, and its exp is 0."""


def log_mass(mass: Tensor) -> Tensor:
    """Return the logarithm, ``NOTHING`` on padding; differentiable."""
    real = mass > 0
    return mass.where(real, 1.0).log().where(real, NOTHING)


class LogScalings(Scalings):
    """``f = log r`` and ``g = log c``, in float64; sums run in the precision of the cost."""

    def __init__(self, problems: Problems, rules: Rules, room: Float[Tensor, "k b m n"]) -> None:
        self.scaled, self.work = room[0], room[1]
        torch.div(problems.cost.mT, problems.epsilon, out=self.scaled)
        self.source, self.anchor = problems.source.double(), problems.anchor.double()
        self.log_source, self.log_anchor = log_mass(self.source), log_mass(self.anchor)
        self.f = torch.zeros_like(self.source).where(self.source > 0, NOTHING)
        self.g = torch.zeros_like(self.anchor).where(self.anchor > 0, NOTHING)
        self.real = problems.real_sources()
        self.move, self.start = torch.zeros_like(self.g), self.g

    def over_anchors(self, g: Tensor) -> Float[Tensor, "b sources"]:
        """Return ``logsumexp_j(g_j - C_ij / epsilon)``."""
        terms = torch.sub(g.to(self.scaled)[:, :, None], self.scaled, out=self.work)
        return torch.logsumexp(terms, 1).double()

    def over_sources(self, f: Tensor) -> Float[Tensor, "b anchors"]:
        """Return ``logsumexp_i(f_i - C_ij / epsilon)``."""
        terms = torch.sub(f.to(self.scaled)[:, None, :], self.scaled, out=self.work)
        return torch.logsumexp(terms, 2).double()

    def begin_with_sources(self) -> None:
        """Scale the anchors from ``r = 1``."""
        self.sum_anchors()
        self.scale_anchors()
        self.start = self.g

    def sum_sources(self) -> None:
        """Form new log scalings of the sources."""
        self.new_f = self.log_source - self.over_anchors(self.g)

    def source_error(self) -> Tensor:
        """Compare what sources shipped with their masses."""
        return ((self.f - self.new_f).expm1() * self.source).abs().amax(-1)

    def scale_sources(self) -> None:
        """Set ``f``."""
        self.f_before, self.f = self.f, self.new_f

    def change(self, whole: bool) -> Tensor:
        """Compare ``f`` with the one before."""
        total = (self.f.exp() - self.f_before.exp()).abs().sum(-1)
        return mean_change(total, self.real, whole)

    def sum_anchors(self) -> None:
        """Form new log scalings of the anchors."""
        self.new_g = self.log_anchor - self.over_sources(self.f)

    def anchor_error(self) -> Tensor:
        """Compare what anchors received with their masses."""
        return ((self.g - self.new_g).expm1() * self.anchor).abs().amax(-1)

    def scale_anchors(self) -> None:
        """Set ``g``."""
        self.g_before, self.g = self.g, self.new_g

    def defect_error(self) -> Tensor:
        """Compare ``g`` with what a plain step would make it."""
        self.defect = self.new_g - self.g
        return self.defect.abs().amax(-1)

    def move_anchors(self, momentum: float, step: float, on: Tensor | None) -> None:
        """Move ``g``."""
        move = momentum * self.move + step * self.defect
        self.move = move if on is None else move.where(on[:, None], self.defect)
        self.g = self.g + self.move

    def restart(self, which: Tensor) -> None:
        """Put ``g`` back."""
        self.g = self.start.where(which[:, None], self.g)
        self.move = self.move.masked_fill(which[:, None], 0.0)

    def here(self) -> Tensor:
        """Return ``g``."""
        return self.g

    def before(self) -> Tensor:
        """Return ``g`` of the sweep before."""
        return self.g_before

    def close_sources(self, g: Tensor) -> Float[Tensor, "b sources"]:
        """Return the log scalings of the sources, equal for equal rows."""
        terms = torch.sub(g.to(self.scaled)[:, :, None], self.scaled, out=self.work)
        top = terms.amax(1, keepdim=True)
        sums = fold(terms.sub_(top).exp_())
        return self.log_source - (sums.log() + top[:, 0])

    def finish(self, anchors: Tensor, last: str, plan: Tensor) -> None:
        """Sum the sources by halves and write the plan."""
        f, g = self.close_sources(anchors), anchors
        if last == "anchor":
            g = self.log_anchor - LogScalings.over_sources(self, f)
        terms = torch.sub(f.to(self.scaled)[:, None, :], self.scaled, out=self.work)
        torch.exp(terms.add_(g.to(self.scaled)[:, :, None]), out=plan.mT)
