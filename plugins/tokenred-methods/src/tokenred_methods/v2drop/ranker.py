"""How much the layer before changed a token."""

from torch import Tensor

from tokenred.interfaces import TokenRanker
from tokenred.types import LayerState


class VariationRanker(TokenRanker):
    """Score a token by the distance between its hidden states before and after the last layer.

    The distance is Euclidean, of the residual stream itself. No attention is read, so any kernel
    will do.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    V2Drop; xuyang-liu16/V2Drop@219e03e. Licence of source: Apache-2.0 (written from our
    description).
    Differs: nothing.
    """

    reads = frozenset({"previous-input"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the distances."""
        before = state.previous_input()[candidates]
        return (state.hidden[candidates].float() - before.float()).norm(dim=-1)
