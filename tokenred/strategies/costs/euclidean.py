"""Euclidean distance."""

from typing import ClassVar

import torch
from torch import Tensor

from tokenred.strategies.costs.of import OfConfig, vectors
from tokenred.types import TokenGroup


class EuclideanConfig(OfConfig):
    """Settings of the Euclidean cost."""


class EuclideanCost:
    """Cost of the Euclidean distance, divided by the root of the width.

    Shapes
    ------
    sources.features : (*batch, sources, dim), anchors.features : (*batch, anchors, dim), any float
    dtype; returns (*batch, sources, anchors) in float32 (float64 stays)

    Source
    ------
    The distance of DPC-KNN in PruneVid (Visual-AI/PruneVid@b12600c) and HoliTom
    (cokeshao/HoliTom@e9b2972). Licence of source: CC BY-NC-SA 4.0 and Apache-2.0 (written from our
    description).
    Differs: nothing.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, config: EuclideanConfig) -> None:
        self.config = config

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared, if it is one."""
        return self.config.needs

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of every (source, anchor) pair."""
        left, right = (vectors(group, self.config.of) for group in (sources, anchors))
        return torch.cdist(left, right) / left.shape[-1] ** 0.5
