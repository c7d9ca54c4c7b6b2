"""Couplers: how much of every source goes to every anchor."""

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import CapabilityError
from tokenred.interfaces import Coupler
from tokenred.kernels.sinkhorn import Acceleration, Domain, Gradient, Side, Stop, sinkhorn
from tokenred.types import Coupling


def closed_pairs(anchor_mass: Tensor, forbidden: Tensor | None) -> Tensor:
    """Return a mask, for all sources or for each: the anchor is padding, or the pair forbidden."""
    padding = (anchor_mass <= 0)[..., None, :]
    return padding if forbidden is None else padding | forbidden


class SinkhornConfig(StrategyConfig):
    """Settings of the Sinkhorn coupler."""

    epsilon: float = Field(
        0.1, ge=1e-6, le=1e6, description="entropic regularisation, in the cost's unit"
    )
    max_iter: int = Field(100, ge=1, le=10**5, description="sweeps at most")
    stop: Stop = Field(
        "residual", description="stop rule: worst marginal error, change of scaling, or none"
    )
    tolerance: float = Field(1e-3, gt=0, le=1e6, description="what the stop rule compares with")
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


class SinkhornCoupler(Coupler):
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

    config: SinkhornConfig
    marginals = "both"

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


class ExactCoupler(Coupler):
    """Couple by unregularised optimal transport (a sparse plan), on the CPU, problem by problem.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same

    Raises
    ------
    CapabilityError
        If POT is not installed (``pip install tokenred[pot]``).

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 3. Solver: POT ``ot.emd`` (MIT, used as a library).
    Differs: AOT never solves the exact problem; this is the limit ``epsilon -> 0`` of its plan.
    No gradient flows through the plan.
    """

    marginals = "both"

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the cheapest plan with both marginals."""
        try:
            import ot
        except ImportError:
            raise CapabilityError(
                "coupler 'exact' needs POT: pip install 'tokenred[pot]'"
            ) from None
        batch = cost.shape[:-2]
        priced = cost.detach().double()
        if forbidden is not None and cost.numel():
            # Dearer than any detour over allowed pairs, so that it is taken only without one.
            allowed = priced.abs().masked_fill(forbidden, 0.0).amax((-2, -1), keepdim=True)
            priced = priced.where(~forbidden, (1 + 2 * allowed) * sum(cost.shape[-2:]))
        flat = priced.cpu().reshape(-1, *cost.shape[-2:]).numpy()
        rows = source_mass.detach().double().cpu().expand(*batch, -1).reshape(len(flat), -1).numpy()
        columns = (
            anchor_mass.detach().double().cpu().expand(*batch, -1).reshape(len(flat), -1).numpy()
        )
        plans = []
        for matrix, a, b in zip(flat, rows, columns):
            if a.sum() == 0 or b.sum() == 0:  # one side is padding alone
                plans.append(torch.zeros(matrix.shape, dtype=torch.float64))
                continue
            # emd compares the totals to 1e-7; float32 masses are rescaled to agree.
            plans.append(torch.from_numpy(ot.emd(a, b * (a.sum() / b.sum()), matrix)))
        dtype = torch.promote_types(cost.dtype, torch.float32)
        plan = torch.stack(plans).reshape(cost.shape).to(cost.device, dtype)
        if forbidden is not None:
            plan = plan.masked_fill(forbidden, 0.0)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)


class CosineCouplerConfig(StrategyConfig):
    """Settings of the cosine coupler."""

    temperature: float = Field(
        0.1, ge=1e-6, le=1e6, description="soft-max temperature, in the cost's unit"
    )


class CosineCoupler(Coupler):
    """Couple by ``source_mass * softmax(-cost / temperature)`` over the anchors.

    With ``temperature`` equal to ``epsilon`` this is Sinkhorn's kernel without balancing: the
    difference to ``sinkhorn`` is transport, and nothing else.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same

    Source
    ------
    AOT, arXiv 2603.01400, Table 4, "Cosine Merging" (not spelled out there).
    Licence of source: written from the paper.
    Differs: the soft-max and its temperature are our reading.
    """

    config: CosineCouplerConfig
    marginals = "source"

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the plan; padded and forbidden anchors receive nothing."""
        dtype = torch.promote_types(cost.dtype, torch.float32)
        logits = -cost.to(dtype) / self.config.temperature
        closed = closed_pairs(anchor_mass, forbidden)
        logits = logits.masked_fill(closed, torch.finfo(dtype).min)
        plan = torch.softmax(logits, dim=-1) * source_mass.to(dtype)[..., :, None]
        if forbidden is not None:
            plan = plan.masked_fill(forbidden, 0.0)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)


class NearestCoupler(Coupler):
    """Couple every source with its cheapest anchor; the first of equals wins.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, one non-zero a row

    Source
    ------
    Tencent/SelfEvolvingAgent@a82450e (VScan) ``token_merging``, which AOT's release blends in.
    Licence of source: MIT (written from our description).
    Differs: nothing.
    """

    marginals = "source"

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the plan; padded and forbidden anchors receive nothing."""
        dtype = torch.promote_types(cost.dtype, torch.float32)
        real = cost.masked_fill(closed_pairs(anchor_mass, forbidden), torch.inf)
        choice = torch.nn.functional.one_hot(real.argmin(-1), cost.shape[-1]).to(dtype)
        plan = choice * source_mass.to(dtype)[..., :, None]
        if forbidden is not None:  # a source may have nowhere to go
            plan = plan.masked_fill(forbidden, 0.0)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)


class NoCoupler(Coupler):
    """Couple nothing with anything: the plan is zero and anchors stay as they are.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, all zero

    Source
    ------
    AOT, arXiv 2603.01400, Table 5, "w/o OT". Written from the paper.
    Differs: nothing.
    """

    marginals = "none"
    couples = False

    def couple(
        self,
        cost: Tensor,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Return the empty plan."""
        dtype = torch.promote_types(cost.dtype, torch.float32)
        plan = torch.zeros(cost.shape, dtype=dtype, device=cost.device)
        return Coupling.direct(plan, cost, source_mass, anchor_mass)
