"""Entropic optimal transport: the coupling that AOT is named for."""

from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import Marginals
from tokenred.kernels.sinkhorn import Acceleration, Domain, Gradient, Side, Stop, sinkhorn
from tokenred.types import Coupling


class SinkhornConfig(StrategyConfig):
    """Settings of the Sinkhorn coupler."""

    epsilon: float = Field(0.1, gt=0, description="entropic regularisation, in the cost's unit")
    max_iter: int = Field(100, ge=1, description="sweeps at most")
    stop: Stop = Field(
        "residual", description="stop rule: worst marginal error, change of scaling, or none"
    )
    tolerance: float = Field(1e-3, gt=0, description="what the stop rule compares with")
    last: Side = Field("anchor", description="side updated last, whose marginal is then exact")
    domain: Domain = Field(
        "auto",
        description="iterate on the kernel, on one that absorbs the scalings, or on logarithms",
    )
    acceleration: Acceleration = Field(
        "auto", description="extrapolate the sweeps; auto does so where they stop by the residual"
    )
    gradient: Gradient = Field(
        "unrolled",
        description="differentiate the sweeps, or (implicit, less memory) the solution they meet",
    )

    @model_validator(mode="after")
    def _scalings_are_plain(self) -> "SinkhornConfig":
        if self.acceleration == "chebyshev" and self.stop in ("scaling", "scaling-batch"):
            raise ValueError(
                f"acceleration: chebyshev changes the scalings that stop: {self.stop} tests; "
                "choose stop: residual or none, or acceleration: none"
            )
        return self


class SinkhornCoupler:
    """Couple by entropic optimal transport with both marginals prescribed.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, float32 (float64 stays)

    Invariants
    ----------
    ``plan >= 0``; the marginal of the side named ``last`` is exact to rounding, the other one
    within ``residual``. Differentiable through the sweeps or, with ``gradient: implicit``, at the
    solution, which presumes that the stop rule was met.

    Source
    ------
    AOT, arXiv 2603.01400, Eqs. 4-5, Algorithm 1 (Cuturi 2013); TyroneLi/AOT@88455ee
    ``Sinkhorn_v1``. Licence of source: Apache-2.0 (written from our description).
    Differs: the default stops on the marginal residual of each problem and accelerates the sweeps
    (``acceleration: none`` makes plain ones, to the same solution). ``stop: scaling`` with
    ``last: source`` and ``tolerance: 0.01`` is Algorithm 1; ``stop: scaling-batch`` with
    ``last: anchor`` is the release, where problems of a batch stop together.
    """

    marginals: ClassVar[Marginals] = "both"

    def __init__(self, config: SinkhornConfig) -> None:
        self.config = config

    @property
    def independent(self) -> bool:
        """Whether a problem's plan does not depend on what else is in its batch."""
        return self.config.stop != "scaling-batch"

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the transport plan."""
        settings = self.config.model_dump(exclude={"name"})
        solution = sinkhorn(cost, source_mass, anchor_mass, forbidden=forbidden, **settings)
        return Coupling(
            solution.plan,
            cost,
            source_mass,
            anchor_mass,
            solution.n_iter,
            solution.residual,
            solution.converged,
        )
