"""Attention of the question that knows neither order nor distance."""

from torch import Tensor

from tokenred.interfaces import TokenRanker
from tokenred.strategies.rankers import text_after
from tokenred.types import LayerState


class PositionFreeRanker(TokenRanker):
    """Score a token by the most attention that any head of any question token would give it.

    The attention is computed for this purpose with the queries and keys of the layer before, before
    their rotary embedding and without a mask, so that neither distance nor order counts. Question
    tokens are the text behind the last image or video.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    PruneVid, arXiv 2412.16117; Visual-AI/PruneVid@b12600c ``LlamaAttention.forward``,
    ``VTPWindowCache.obtain_language_attention``. Licence of source: CC BY-NC-SA 4.0 (written from
    our description).
    Differs: without text behind the video, the prompt's last token asks.
    """

    reads = frozenset({"previous-input"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the largest entry of every column."""
        rows = state.probe(text_after(state), layer="previous", rotary=False, causal=False)
        return rows.amax((0, 1))[candidates]
