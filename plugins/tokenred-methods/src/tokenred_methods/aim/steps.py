"""Bipartite merging in steps, each on the order that the step before left."""

from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import TokenGrouper
from tokenred.kernels.sparse import sparse_map
from tokenred.types import Grouping, VisualTokens
from tokenred_methods.tome.matching import best_partner

Step = Annotated[int, Field(strict=True, ge=1, le=2**20)] | Annotated[float, Field(gt=0, lt=1)]


class BipartiteStepsConfig(StrategyConfig):
    """Settings of merging in steps."""

    steps: tuple[Step, ...] = Field(
        (0.5, 0.25),
        min_length=1,
        max_length=64,
        description="tokens of a frame that are merged away in each step: a count, or with a dot a "
        "share of those that the frame began with, rounded down; at most half of those that are "
        "left go in one step",
    )


class BipartiteStepsGrouper(TokenGrouper):
    """In each step, merge the even tokens of a frame that are most alike into their odd partners.

    A partner becomes the plain mean of itself and what joins it. What was not merged then stands
    first, by falling similarity, and odd tokens behind it: that order is numbered in the next step.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : groups, frame by frame, in the order of the last
        step

    Source
    ------
    AIM, arXiv 2412.03248; LaVi-Lab/AIM@edc24e9 ``bipartite_soft_matching_merge``. Licence of
    source: Apache-2.0 (written from our description).
    Differs: the group stage puts the tokens back in raster order.
    """

    config: BipartiteStepsConfig

    def group(self, tokens: VisualTokens, *, generator: torch.Generator) -> Grouping:
        """Return what each remaining token is made of, and itself as the head."""
        n = tokens.keep.shape[1]
        heads, rows, columns, values = [], [], [], []
        for frame, (features, keep) in enumerate(zip(tokens.features, tokens.keep)):
            places = frame * n + keep.nonzero()[:, 0]
            head, weights = self._merged(features[keep])
            row, column = weights.nonzero(as_tuple=True)
            rows.append(row + sum(map(len, heads)))
            columns.append(places[column])
            values.append(weights[row, column])
            heads.append(places[head])
        head = torch.cat(heads)
        index = torch.stack([torch.cat(rows), torch.cat(columns)])
        size = (len(head), tokens.keep.numel())
        return Grouping(head, sparse_map(index, torch.cat(values), size))

    def _merged(
        self, features: Float[Tensor, "tokens dim"]
    ) -> tuple[Int[Tensor, "left"], Float[Tensor, "left tokens"]]:
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        head = torch.arange(len(wide), device=wide.device)
        weights = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
        for step in self.config.steps:
            count = step if isinstance(step, int) else int(step * len(wide))
            head, weights = _step(head, weights, weights @ wide, count)
        return head, weights


def _step(
    head: Int[Tensor, "now"],
    weights: Float[Tensor, "now tokens"],
    features: Float[Tensor, "now dim"],
    count: int,
) -> tuple[Int[Tensor, "left"], Float[Tensor, "left tokens"]]:
    count = min(count, len(head) // 2)
    if not count:
        return head, weights
    even = torch.arange(len(head), device=head.device) % 2 == 0
    score, partner = best_partner(features[None], even[None], ~even[None])
    order = score[0].argsort(descending=True, stable=True)[: int(even.sum())]
    merged, alone = order[:count], order[count:]
    joined = weights.index_add(0, partner[0, merged], weights[merged])
    sizes = torch.ones_like(weights[:, 0]).index_add(
        0, partner[0, merged], torch.ones_like(weights[merged, 0])
    )
    left = torch.cat([alone, (~even).nonzero()[:, 0]])
    return head[left], (joined / sizes[:, None])[left]
