"""Distance on the grid."""

from typing import ClassVar

import torch
from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.types import TokenGroup


class SpatialConfig(CostTermConfig):
    """No settings; the weight stands beside the term."""


class SpatialCost:
    """Euclidean distance of two tokens on the grid, both axes scaled to [0, 1].

    Shapes
    ------
    positions : (*batch, n, 2); returns (*batch, sources, anchors), between 0 and sqrt(2)

    Source
    ------
    TyroneLi/AOT@88455ee ``token_merging_siglip_with_OTA`` (weight 0.5 there; the paper has no such
    term). Licence of source: Apache-2.0 (written from our description).
    Differs: computed in float32 without the matrix-product form, so short distances are exact.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, config: SpatialConfig) -> None:
        self.config = config

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the distance of every (source, anchor) pair."""
        return torch.cdist(
            sources.positions, anchors.positions, compute_mode="donot_use_mm_for_euclid_dist"
        )
