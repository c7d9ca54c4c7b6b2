"""Coupling from the anchor's side: every anchor takes in its nearest sources."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from tokenred import Coupling, InputError, StrategyConfig
from tokenred.interfaces import Coupler


class NeighboursConfig(StrategyConfig):
    """Settings of the neighbours coupler."""

    neighbours: int = Field(32, ge=1, le=2**20, description="sources that every anchor takes in")
    fewer: Literal["all", "error"] = Field(
        "all", description="where there are fewer: take them all, or fail as the release does"
    )


class NeighboursCoupler(Coupler):
    """Couple every anchor with its cheapest sources, each at its full mass.

    A source may go to many anchors, with its whole mass to each, or to none: this copies where
    ``nearest`` moves. Of equally cheap sources the first wins.

    Shapes
    ------
    cost : (*batch, sources, anchors)      plan : same, at most ``neighbours`` non-zero a column

    Raises
    ------
    InputError
        If an anchor has fewer sources than ``neighbours`` and ``fewer`` is ``error``.

    Source
    ------
    LLaVA-PruMerge, arXiv 2403.15388; 42Shawn/LLaVA-PruMerge@097c041
    ``CLIPVisionTower.token_prune_merge_advanced``. Licence of source: Apache-2.0 (written from our
    description).
    Differs: ``fewer: all`` is ours; the release fails on frames of fewer than 33 tokens.
    """

    config: NeighboursConfig
    marginals = "none"
    copies = True

    def couple(
        self,
        cost: Float[Tensor, "*batch sources anchors"],
        source_mass: Float[Tensor, "*batch sources"],
        anchor_mass: Float[Tensor, "*batch anchors"],
        forbidden: Bool[Tensor, "*batch sources anchors"] | None = None,
    ) -> Coupling:
        """Return the plan; padding and forbidden sources are nobody's neighbours."""
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        takes = (anchor_mass > 0)[..., None, :]
        real = (source_mass > 0)[..., :, None] & takes
        if forbidden is not None:
            real = real & ~forbidden
        self._check(real, takes)
        order = cost.masked_fill(~real, torch.inf).argsort(dim=-2, stable=True)
        nearest = order[..., : self.config.neighbours, :]
        taken = torch.zeros_like(real).scatter(-2, nearest, True) & real
        plan = taken.to(dtype) * source_mass.to(dtype)[..., :, None]
        return Coupling.direct(plan, cost, source_mass, anchor_mass)

    def _check(self, real: Tensor, takes: Tensor) -> None:
        if self.config.fewer == "all" or real.shape[-1] == 0:
            return
        n_real = real.sum(-2, keepdim=True)[takes.expand(*real.shape[:-2], 1, real.shape[-1])]
        if bool((n_real < self.config.neighbours).any()):
            raise InputError(
                f"an anchor has {int(n_real.min())} sources to choose from, "
                f"{self.config.neighbours} neighbours are asked for"
            )
