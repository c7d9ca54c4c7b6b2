"""Which vectors of a token a cost compares."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.types import TokenGroup


class OfConfig(CostTermConfig):
    """Settings of costs that compare vectors."""

    of: str = Field("features", description="what is compared: 'features' or a per-token cue")

    @property
    def needs(self) -> frozenset[str]:
        """The cue, if it is one."""
        return frozenset() if self.of == "features" else frozenset({self.of})


def raw_vectors(group: TokenGroup, of: str) -> Tensor:
    """Return (*batch, n, width) in the dtype they have; a cue of one number has width 1."""
    values = group.features if of == "features" else group.cues[of]
    return values[..., None] if values.ndim == group.features.ndim - 1 else values


def vectors(group: TokenGroup, of: str) -> Tensor:
    """Return (*batch, n, width) in float32 (float64 stays); a cue of one number has width 1."""
    values = raw_vectors(group, of)
    return values.to(torch.promote_types(values.dtype, torch.float32))
