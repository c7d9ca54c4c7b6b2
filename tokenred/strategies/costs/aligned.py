"""Only tokens in the same place of their frames may be coupled."""

from typing import ClassVar

from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.types import TokenGroup

APART = 1e6


class AlignedConfig(CostTermConfig):
    """Settings of the aligned cost."""


class AlignedCost:
    """Cost 0 between tokens in the same place of their frames, a million between all others.

    Added to a cost of features it pins every source to the token in its own place.

    Shapes
    ------
    positions : (*batch, n, 2); returns (*batch, sources, anchors), 0 or 1e6

    Source
    ------
    The comparison of like places in DyCoke (KD-TAO/DyCoke@dd74634), DTD
    (yaolinli/TimeChat-Online@25a1578) and EVS (vllm-project/vllm@926c71f). Licence of source:
    Apache-2.0, BSD-3-Clause, Apache-2.0 (written from our description).
    Differs: a source whose place has no anchor goes to the cheapest other one.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, config: AlignedConfig) -> None:
        self.config = config

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the cost of every (source, anchor) pair."""
        left, right = sources.positions[..., :, None, :], anchors.positions[..., None, :, :]
        return (left != right).any(-1).to(left.dtype) * APART
