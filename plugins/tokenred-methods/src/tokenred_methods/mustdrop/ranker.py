"""Two thresholds on the attention of the text."""

from jaxtyping import Bool
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import TokenRanker
from tokenred.strategies.rankers import text_after
from tokenred.types import LayerState


class TwoThresholdsConfig(StrategyConfig):
    """Settings of the two thresholds."""

    total: float = Field(
        0.001,
        ge=0,
        le=1,
        description="share of the attention of the text to all candidates, below which a token may "
        "go",
    )
    single: float = Field(
        0.001, ge=0, le=2, description="attention that no text token must pay to a token that goes"
    )


class TwoThresholdsRanker(TokenRanker):
    """Let tokens go that the text as a whole and every single text token pay little attention.

    Attention is the mean over heads, the text what stands behind the last image or video. Both
    thresholds are strict. Use it with ``adaptive`` in the schedule: how many stay follows from the
    data. Otherwise tokens that would go are the first to go.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,), 1 for what stays, else 0

    Source
    ------
    MustDrop, arXiv 2411.10803; liuting20/MustDrop@909afa5
    ``LlamaDynamicvitModel.dual_attention_filter``. Licence of source: Apache-2.0 by its headers
    (written from our description).
    Differs: nothing in the rule; the set of tokens that the vision tower protects is not offered.
    """

    config: TwoThresholdsConfig
    counts = True
    reads = frozenset({"attention"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return which candidates stay."""
        return self._stays(state, candidates).float()

    def n_kept(self, state: LayerState, candidates: Tensor) -> int:
        """Return how many stay."""
        return int(self._stays(state, candidates).sum())

    def _stays(self, state: LayerState, candidates: Tensor) -> Bool[Tensor, "candidates"]:
        rows = state.attention(text_after(state)).mean(0)[:, candidates]
        total = rows.sum(0)
        least = self.config.total * total.sum()
        return (total >= least) | (rows.amax(0) >= self.config.single)
