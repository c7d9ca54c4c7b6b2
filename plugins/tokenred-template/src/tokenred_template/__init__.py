"""A coupler for pairs that choose each other."""

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from tokenred import Coupler, Coupling, StrategyConfig, hookimpl


class MutualNearestConfig(StrategyConfig):
    """Settings of the mutual-nearest coupler."""

    max_cost: float | None = Field(None, description="pairs that cost more stay apart; null: none")


class MutualNearestCoupler(Coupler):
    """Couple a source with its cheapest anchor if it is that anchor's cheapest source.

    An anchor takes in one source at most; all other sources are dropped.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, at most one non-zero a row and a column

    Source
    ------
    Our own example. Differs: nothing to differ from.
    """

    config: MutualNearestConfig
    marginals = "none"

    def couple(
        self,
        cost: Float[Tensor, "*batch sources anchors"],
        source_mass: Float[Tensor, "*batch sources"],
        anchor_mass: Float[Tensor, "*batch anchors"],
        forbidden: Bool[Tensor, "*batch sources anchors"] | None = None,
    ) -> Coupling:
        """Return the plan; padding and what is forbidden is nobody's nearest."""
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        real = (source_mass > 0)[..., :, None] & (anchor_mass > 0)[..., None, :]
        if forbidden is not None:
            real = real & ~forbidden
        price = cost.to(dtype).masked_fill(~real, torch.inf)
        mutual = _one_hot_minimum(price, -1) & _one_hot_minimum(price, -2) & real
        if self.config.max_cost is not None:
            mutual = mutual & (price <= self.config.max_cost)
        plan = mutual.to(dtype) * source_mass.to(dtype)[..., :, None]
        return Coupling.direct(plan, cost, source_mass, anchor_mass)


def _one_hot_minimum(price: Tensor, dim: int) -> Tensor:
    place = price.argmin(dim, keepdim=True)  # the first of equals
    return torch.zeros_like(price, dtype=torch.bool).scatter(dim, place, True)


@hookimpl
def register_strategies(register):
    """Tell tokenred what this plugin brings."""
    register("mutual-nearest", MutualNearestCoupler)
