"""Another selector's tokens, and evenly spaced ones between them."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.slots import Slot, build
from tokenred_methods.prumerge.released_samples import with_repeats, without_repeats


class WithSamplesConfig(StrategyConfig):
    """Settings of the with-samples selector."""

    first: Slot[AnchorSelector] = Field(
        "top-attention", validate_default=True, description="which tokens are chosen first"
    )
    samples: float = Field(
        1.0, gt=0, le=1e6, description="evenly spaced tokens for each that 'first' chooses"
    )
    released: Literal["no", "adaptive", "fixed"] = Field(
        "no",
        description="spacing as released: 'adaptive' samples from token 0 without repeats, 'fixed' "
        "from half a step on with repeats",
    )


class WithSamplesSelector(AnchorSelector):
    """Select what another selector chooses, and ``samples`` times as many evenly spaced tokens.

    Of ``n_anchors`` the first selector is asked for ``1 / (1 + samples)``; the samples are spread
    in raster order over the tokens that it left. If it takes fewer, so are the samples. The two
    released spacings step through the whole frame instead, the last token of which they never
    reach; ``fixed`` may choose a token twice, which no stage accepts.

    Shapes
    ------
    returns : (frames, anchors) indices, the first selector's before the samples, -1 behind those of
    a frame with fewer

    Raises
    ------
    InputError
        As released, if the tokens of ``first`` are so many that the spacing is zero, or if the
        samples of ``fixed`` are not as many as they are.

    Source
    ------
    LLaVA-PruMerge, arXiv 2403.15388; 42Shawn/LLaVA-PruMerge@097c041
    ``CLIPVisionTower.token_prune_merge_advanced_plus``. Licence of source: Apache-2.0 (written from
    our description).
    Differs: by default nothing is chosen twice, every number can be had, and any frame and grid
    will do. ``adaptive`` treats every frame as an image of its own, as the release can do no more
    than one at a time; the grid of 24x24, hard-wired there, is the frame's here.
    """

    config: WithSamplesConfig

    def __init__(self, config: WithSamplesConfig) -> None:
        super().__init__(config)
        self.first = build(AnchorSelector, config.first)

    @property
    def adaptive(self) -> bool:
        """Whether the number follows from the data, as it does with the first selector's."""
        return self.config.released == "adaptive" or self.first.adaptive

    @property
    def looks_across_frames(self) -> bool:
        """Whether the first selector does."""
        return self.first.looks_across_frames

    @property
    def needs(self) -> frozenset[str]:
        """What the first selector reads."""
        return self.first.needs

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the anchors of every frame."""
        n_first = math.ceil(round(n_anchors / (1 + self.config.samples), 9))
        first = self.first.select(tokens, n_first, generator=generator)
        rank, n_tokens = _rank(first, tokens.keep), tokens.keep.shape[1]
        chosen = rank < n_tokens
        if self.config.released == "fixed":
            n_first = int(chosen[0].sum())
            again = with_repeats(n_first, n_tokens, self.config.samples, rank.device)
            best = rank.argsort(dim=-1, stable=True)[:, :n_first]
            return torch.cat([best, again.expand(len(best), -1)], dim=-1)
        if self.config.released == "adaptive":
            added = tokens.keep & ~chosen & without_repeats(chosen, self.config.samples)
            added &= added.cumsum(-1) <= n_anchors - chosen.sum(-1, keepdim=True)
        else:
            count = torch.ceil((chosen.sum(-1) * self.config.samples).round(decimals=6)).long()
            added = spread(tokens.keep & ~chosen, count.minimum(n_anchors - chosen.sum(-1)))
        behind = torch.arange(n_tokens, device=rank.device) + n_tokens
        order = rank.where(~added, behind).where(chosen | added, 2 * n_tokens)
        order = order.argsort(dim=-1, stable=True)
        counts = (chosen | added).sum(-1, keepdim=True)
        place = torch.arange(int(counts.max()), device=rank.device)
        return order[:, : len(place)].masked_fill(place >= counts, -1)


def spread(
    mask: Bool[Tensor, "frames tokens"], count: Int[Tensor, "frames"]
) -> Bool[Tensor, "frames tokens"]:
    """Mark ``count`` evenly spaced entries among those of each row that are True, if there are."""
    n = mask.sum(-1, keepdim=True)
    number = mask.cumsum(-1) - 1
    count = count[:, None].minimum(n)
    return mask & (number * count % n.clamp_min(1) < count)


def _rank(chosen: Tensor, keep: Bool[Tensor, "frames tokens"]) -> Int[Tensor, "frames tokens"]:
    """Return each token's place in a selector's answer; behind all others if it is not in it."""
    n_tokens = keep.shape[1]
    if chosen.dtype == torch.bool:
        return (chosen.cumsum(-1) - 1).masked_fill(~chosen, n_tokens)
    rank = torch.full(keep.shape, n_tokens, dtype=torch.long, device=keep.device)
    frame, place = (chosen >= 0).nonzero(as_tuple=True)
    rank[frame, chosen[frame, place]] = place
    return rank
