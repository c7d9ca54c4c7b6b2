"""Attention from visual and from text tokens, multiplied."""

from jaxtyping import Float, Int
from torch import Tensor

from tokenred.interfaces import TokenRanker
from tokenred.strategies.rankers import text_after
from tokenred.types import LayerState


class SelfCrossRanker(TokenRanker):
    """Score a token by what the visual tokens pay it times what the text behind them pays it.

    Attention is the maximum over heads. The text is what stands behind the last image or video.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    FitPrune, arXiv 2409.10197; ywh187/FitPrune@d28e418 ``LlamaAttention.forward``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: visual rows are those of the candidates; a prompt without text behind its last image is
    judged by its last token.
    """

    reads = frozenset({"attention"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the product of both sums; the visual one is a mean."""
        own, cross = self_and_cross(state, candidates)
        return own / len(candidates) * cross


def self_and_cross(
    state: LayerState, candidates: Int[Tensor, "candidates"]
) -> tuple[Float[Tensor, "candidates"], Float[Tensor, "candidates"]]:
    """Return what the candidates get from each other and from the text, summed over rows."""
    rows = (candidates, text_after(state))
    own, cross = (state.attention(each).amax(0)[:, candidates].sum(0) for each in rows)
    return own, cross
