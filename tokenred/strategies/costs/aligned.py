"""Only tokens in the same place of their frames may be coupled."""

from typing import ClassVar

from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import TokenGroup


class AlignedConfig(StrategyConfig):
    """No settings, and no weight: it has no price."""


class AlignedCost:
    """Cost nothing, and forbid all pairs but those in the same place of their frames.

    Beside a cost of features it pins every source to the token in its own place.

    Shapes
    ------
    positions : (*batch, n, 2); returns (*batch, sources, anchors)

    Source
    ------
    The comparison of like places in DyCoke (KD-TAO/DyCoke@dd74634), DTD
    (yaolinli/TimeChat-Online@25a1578) and EVS (vllm-project/vllm@926c71f). Licence of source:
    Apache-2.0, BSD-3-Clause, Apache-2.0 (written from our description).
    Differs: a source whose place has no anchor goes nowhere.
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, config: AlignedConfig) -> None:
        self.config = config

    def cost(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return zeros."""
        left, right = sources.positions, anchors.positions
        return left.new_zeros((*left.shape[:-1], right.shape[-2]))

    def forbids(self, sources: TokenGroup, anchors: TokenGroup) -> Tensor:
        """Return the pairs in different places."""
        left, right = sources.positions[..., :, None, :], anchors.positions[..., None, :, :]
        return (left != right).any(-1)
