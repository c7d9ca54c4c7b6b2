"""What is solved, what stops it and what comes out: the data that the parts hand on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Stop = Literal["none", "residual", "scaling", "scaling-batch"]
Side = Literal["anchor", "source"]
Domain = Literal["auto", "kernel", "absorbed", "log"]
Acceleration = Literal["auto", "none", "chebyshev"]
Gradient = Literal["unrolled", "implicit"]


@dataclass(frozen=True)
class Problems:
    """A flat batch of problems that every path can take: finite costs, no problem without mass.

    Attributes
    ----------
    cost : (b, sources, anchors) in float32 or float64, any strides; 0 where one side is padding
    source, anchor : (b, sources) and (b, anchors), zero on padding, of equal total
    epsilon : the unit of ``cost``
    empty : (b,) bool, problems that shipped nothing. Here each source of them has as much mass as
        there are anchors, and each anchor as there are sources: the first sweep solves that, with
        all scalings 1, under every rule. None where there is no padding at all.
    """

    cost: Float[Tensor, "b sources anchors"]
    source: Float[Tensor, "b sources"]
    anchor: Float[Tensor, "b anchors"]
    epsilon: float
    empty: Bool[Tensor, "b"] | None = None

    @classmethod
    def of(
        cls,
        cost: Float[Tensor, "*batch sources anchors"],
        source_mass: Float[Tensor, "*batch sources"],
        anchor_mass: Float[Tensor, "*batch anchors"],
        epsilon: float,
    ) -> "Problems":
        """Flatten and clean; differentiable. Half precision becomes float32."""
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        n, m = cost.shape[-2:]
        flat = cost.to(dtype).reshape(-1, n, m)
        source = source_mass.to(dtype).expand(*cost.shape[:-2], n).reshape(-1, n)
        anchor = anchor_mass.to(dtype).expand(*cost.shape[:-2], m).reshape(-1, m)
        real_source, real_anchor = source > 0, anchor > 0
        # Where nothing is padding, the masks are not needed. Asking a GPU costs more than they do.
        if flat.device.type == "cpu" and bool(real_source.all()) and bool(real_anchor.all()):
            return cls(flat, source, anchor, epsilon)
        # Where one side is padding alone there is nothing to ship.
        full = (real_source.any(-1) & real_anchor.any(-1))[:, None]
        source = source.where(real_source, 0.0).where(full, float(m))
        anchor = anchor.where(real_anchor, 0.0).where(full, float(n))
        real = (real_source & full)[:, :, None] & (real_anchor & full)[:, None, :]
        return cls(flat.masked_fill(~real, 0.0), source, anchor, epsilon, ~full[:, 0])

    def detach(self) -> "Problems":
        """Return the same problems without a graph."""
        tensors = self.cost.detach(), self.source.detach(), self.anchor.detach()
        return Problems(*tensors, self.epsilon, self.empty)

    def real_sources(self) -> Float[Tensor, "b"]:
        """Return how many sources each problem has, beside padding."""
        count = (self.source > 0).sum(-1).to(self.source.dtype)
        return count if self.empty is None else count.masked_fill(self.empty, 0.0)

    def __getitem__(self, part: slice) -> "Problems":
        empty = None if self.empty is None else self.empty[part]
        return Problems(self.cost[part], self.source[part], self.anchor[part], self.epsilon, empty)


@dataclass(frozen=True)
class Rules:
    """How a solution is looked for: the arguments of ``sinkhorn``, with the choices made.

    ``rho`` is the bound of Chebyshev's acceleration, None for plain sweeps.
    """

    max_iter: int
    stop: Stop
    tolerance: float
    last: Side
    rho: float | None = None


@dataclass(frozen=True)
class SweepResult:
    """What happened to each problem: enough to make the same sweeps again.

    Attributes
    ----------
    n_iter : (b,) sweeps made
    done : (b,) bool, whether the stop rule was met
    fell : (b,) the sweep after which a problem went on without acceleration; 0: never
    restarted : (b,) bool, whether it began anew there
    """

    n_iter: Int[Tensor, "b"]
    done: Bool[Tensor, "b"]
    fell: Int[Tensor, "b"]
    restarted: Bool[Tensor, "b"]

    @classmethod
    def join(cls, parts: Sequence["SweepResult"]) -> "SweepResult":
        """Return the runs of all parts of a batch as one."""
        fields = ([getattr(part, name) for part in parts] for name in cls.__dataclass_fields__)
        return cls(*(torch.cat(field) for field in fields))
