"""Cache pruners: which cached tokens the later layers look at while the answer is written."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import CachePruner
from tokenred.strategies.depth import Depth, layer_at
from tokenred.types import CacheState


class DycokeCacheConfig(StrategyConfig):
    """Settings of DyCoke's dynamic cache."""

    layer: Depth = Field(
        0.11,
        validate_default=True,
        description="first layer that looks at the chosen tokens only: an index or, with a dot, a "
        "share of the depth (rounded down)",
    )
    drop_ratio: float = Field(0.7, ge=0, le=1, description="share of the visual tokens left out")
    similarity: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="choose anew when the cosine with the attention one step before is below this",
    )
    unchanged: Literal["reuse", "all"] = Field(
        "reuse",
        description="where attention has not changed: the last choice again, or, as released, all "
        "tokens",
    )
    spare_last: bool = Field(
        False, description="never leave out the last visual token, which the release miscounts"
    )


class DycokeCachePruner(CachePruner):
    """Let the deeper layers see only the cached visual tokens that matter for the next token.

    At every step the visual tokens with the most attention in the layer before, mean over heads,
    are chosen, ``int(visual * (1 - drop_ratio))`` of them, and all other tokens. Nothing is lost:
    the cache keeps every token, and what was left out can come back a step later. Reading the
    prompt costs what it did.

    Shapes
    ------
    state.attention : (heads, tokens)      returns : (kept,)

    Source
    ------
    DyCoke, arXiv 2411.15024; KD-TAO/DyCoke@dd74634 ``PrunableDynamicCache``. Licence of source:
    Apache-2.0 (written from our description).
    Differs: a choice is used again while attention stays the same (``unchanged``); all visual
    tokens take part (``spare_last``).
    """

    config: DycokeCacheConfig

    def layer(self, n_layers: int) -> int:
        """Return the layer of the settings, at least 1."""
        return max(1, layer_at(self.config.layer, n_layers))

    def prune(self, state: CacheState) -> Tensor | None:
        """Return all other tokens and the chosen visual ones."""
        visual = state.visual.nonzero()[:, 0]
        if self.config.spare_last:
            visual = visual[:-1]
        if not len(visual):
            return None
        scores = state.attention.float().mean(0)[visual]
        before = state.memory.get("scores")
        state.memory["scores"] = scores
        alike = before is not None and _cosine(scores, before) >= self.config.similarity
        if alike and self.config.unchanged == "all":
            return None
        if not alike:
            n_kept = int(len(visual) * (1 - self.config.drop_ratio))  # plain floats, as released
            order = scores.argsort(descending=True, stable=True)
            state.memory["left_out"] = visual[order[n_kept:]]
        stays = torch.ones_like(state.visual)
        stays[state.memory["left_out"]] = False
        return stays.nonzero()[:, 0]


def _cosine(first: Tensor, second: Tensor) -> float:
    return float(F.cosine_similarity(first, second, dim=0))
