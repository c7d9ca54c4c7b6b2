"""Couple every token with the two anchors that are nearest to it, half of it to each."""

import torch

import tokenred


@tokenred.register("nearest-two")
class NearestTwoCoupler(tokenred.Coupler):
    """Give every source to its two nearest anchors, in equal shares."""

    marginals = "source"

    def couple(self, cost, source_mass, anchor_mass):
        """Return the coupling; an anchor without mass is padding."""
        dtype = torch.float64 if cost.dtype == torch.float64 else torch.float32
        real = (anchor_mass > 0)[..., None, :].expand(cost.shape)
        near = cost.masked_fill(~real, torch.inf).topk(min(2, cost.shape[-1]), largest=False)
        chosen = torch.zeros(cost.shape, dtype=dtype, device=cost.device)
        chosen.scatter_(-1, near.indices, 1.0).mul_(real)
        share = chosen / chosen.sum(-1, keepdim=True).clamp(min=1)
        plan = share * source_mass.to(dtype)[..., :, None]
        return tokenred.Coupling.direct(plan, cost, source_mass, anchor_mass)
