"""What becomes of the tokens that HoliTom drops inside the LLM."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.interfaces import LayerMerger
from tokenred.types import LayerState


class FoldMerger(LayerMerger):
    """Fold dropped tokens, one after the other, into the kept tokens of largest cosine.

    Each fold is the mean of two: a kept token that receives three weighs 1/8 in the end, and the
    tokens 1/8, 1/4 and 1/2 in the order of the sequence. Cosines are those before any fold.

    Shapes
    ------
    kept : (kept,), dropped : (dropped,)      returns : (kept, dim) and (0, dim)

    Source
    ------
    HoliTom, arXiv 2505.21334; cokeshao/HoliTom@e9b2972 ``Qwen2Model_holitom.forward``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: the folds of one token are summed at once, in float32; vectors of zero give no NaN.
    """

    def merge(
        self, state: LayerState, kept: Tensor, dropped: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the kept hidden states with the dropped ones folded in."""
        hidden = state.hidden
        if not (len(kept) and len(dropped)):
            return hidden[kept], hidden[:0]
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        target = fold_targets(wide, kept, dropped)
        received = target.bincount(minlength=len(kept))
        folded = wide[kept] * torch.exp2(-received.to(wide))[:, None]
        weight = torch.exp2(-_folds_to_come(target, received).to(wide))
        folded = folded.index_add(0, target, wide[dropped] * weight[:, None])
        return folded.to(hidden.dtype), hidden[:0]


def _folds_to_come(
    target: Int[Tensor, "dropped"], received: Int[Tensor, "kept"]
) -> Int[Tensor, "dropped"]:
    """Return how many folds the target has left when a token's turn comes, its own counted."""
    order = target.argsort(stable=True)
    ends = received.cumsum(0)[target[order]]
    left = ends - torch.arange(len(target), device=target.device)
    return torch.empty_like(target).scatter_(0, order, left)


def fold_targets(
    hidden: Float[Tensor, "tokens dim"], kept: Int[Tensor, "kept"], dropped: Int[Tensor, "dropped"]
) -> Int[Tensor, "dropped"]:
    """Return which of the kept tokens each dropped one resembles most; the first of equals."""
    unit = F.normalize(hidden, dim=-1, eps=1e-12)
    return (unit[dropped] @ unit[kept].mT).argmax(-1)
