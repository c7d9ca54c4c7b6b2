"""Anchors by bipartite matching: the most similar even tokens go."""

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.errors import InputError
from tokenred.interfaces import AnchorSelector
from tokenred_methods.tome.matching import best_partner


class BipartiteConfig(StrategyConfig):
    """Settings of the bipartite selector."""

    of: TokenCue = Field(
        "features", description="what is compared: 'features' or a per-token cue such as keys@-1"
    )


class BipartiteSelector(AnchorSelector):
    """Drop the even tokens that are most similar to an odd one, keep all others.

    The tokens at hand of a frame are numbered in raster order. Every even one looks for the most
    similar odd one; those with the best match go. With the cost terms ``bipartite`` and ``cosine``
    of the same vectors and the coupler ``nearest`` each then joins the very token that it was
    matched with. At most half of a frame can go at once; the stage ``rounds-frame`` repeats itself
    on what it has merged.

    Shapes
    ------
    features : (frames, tokens, dim), or a cue (frames, tokens, width)
    returns : (frames, n_anchors), unmerged even tokens, the most similar first, then the odd ones

    Raises
    ------
    InputError
        If more than half of a frame's tokens would go.

    Source
    ------
    ToMe, arXiv 2210.09461; facebookresearch/ToMe@af95e4b ``bipartite_soft_matching``.
    Licence of source: CC-BY-NC-4.0 (written from our description).
    Differs: works on the tokens of a frame after the tower; there is no class token to protect.
    Zero vectors have similarity 0 (upstream: NaN).
    """

    config: BipartiteConfig
    keeps_at_least = 0.5

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared, if it is one."""
        return frozenset() if self.config.of == "features" else frozenset({self.config.of})

    def select(
        self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator
    ) -> Int[Tensor, "frames anchors"]:
        """Return the tokens that stay, in the order of the release; all in raster order if all."""
        keep, of = tokens.keep, self.config.of
        metric = tokens.features if of == "features" else tokens.cue(of)
        here = keep.sum(-1)
        if bool((here - n_anchors > here // 2).any()):
            raise InputError(
                f"{n_anchors} anchors asked for, but bipartite matching drops at most half of the "
                f"{int(here.max())} tokens of a frame at once: use a stage of kind rounds-frame"
            )
        if metric.ndim == 2:
            metric = metric[..., None]
        rank = keep.long().cumsum(-1) - 1
        even = keep & (rank % 2 == 0)
        score, _ = best_partner(metric, even, keep & ~even)
        by_score = score.argsort(dim=-1, descending=True, stable=True)
        place = torch.empty_like(by_score)
        place.scatter_(1, by_score, torch.arange(keep.shape[1], device=keep.device).expand_as(keep))
        gone = even & (place < (here - n_anchors)[:, None])
        # Even tokens by score stand before odd ones by place, what is dropped behind them.
        unchanged = (here == n_anchors)[:, None]
        key = torch.where(even & ~unchanged, place, rank + keep.shape[1])
        return key.masked_fill(gone | ~keep, 3 * keep.shape[1]).argsort(dim=-1)[:, :n_anchors]
