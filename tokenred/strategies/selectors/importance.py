"""What selectors that rank by attention share."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import VisualTokens

LayerSpec = (
    Annotated[int, Field(ge=-1000, le=1000)]
    | Annotated[float, Field(ge=0, le=1)]
    | Literal["pooler"]
    | Annotated[str, Field(pattern=r"^features([+-][0-9]{1,3})?$")]
)
"""A block of the tower: an index (negative from the end), a share of the depth in (0, 1),
``features`` (the block whose output the model reads; ``features-1`` is the one before it), or the
pooling head."""

Windows = Annotated[int, Field(ge=1, le=1024)]
"""How many windows divide one side of the grid."""

Query = Literal["tokens", "patches", "class", "any", "any-joint"]
"""Whose attention counts: of all tokens, of the other patches alone, of the class token, or of that
if the tower has one.

Heads are averaged; ``any-joint`` takes all heads side by side as one.
"""

_CUES = {
    "tokens": "attention",
    "patches": "patch-attention",
    "class": "class-attention",
    "any": "salience",
    "any-joint": "joint-salience",
}
QUERY_TEXT = (
    "whose attention counts: all tokens', the other patches' alone, the class token's, or the "
    "latter if there is one ('any-joint': all heads taken as one)"
)


def attention_cue(layer: LayerSpec, query: Query = "tokens") -> str:
    """Return the name of the cue that holds the attention given to the tokens at ``layer``."""
    return f"{'attention' if layer == 'pooler' else _CUES[query]}@{layer}"


class TwoLayersConfig(StrategyConfig):
    """Settings of selectors that look at a shallow and at a deep layer."""

    shallow_layer: LayerSpec = Field(0.2, description="layer of the local importance")
    deep_layer: LayerSpec = Field(-2, description="layer of the global importance")
    query: Query = Field("tokens", description=QUERY_TEXT)

    @property
    def cues(self) -> tuple[str, str]:
        """The attention of both layers."""
        layers = self.shallow_layer, self.deep_layer
        shallow, deep = (attention_cue(layer, self.query) for layer in layers)
        return shallow, deep


def importance_of(tokens: VisualTokens, cue: str) -> Float[Tensor, "frames tokens"]:
    """Return a per-token cue in float32, minus infinity where a token was dropped before."""
    return tokens.cue(cue).float().masked_fill(~tokens.keep, -torch.inf)


def top_index(
    importance: Float[Tensor, "frames tokens"], n_anchors: int
) -> Int[Tensor, "frames anchors"]:
    """Return the indices of the largest entries of each frame; the first of equals wins."""
    return importance.argsort(dim=-1, descending=True, stable=True)[:, :n_anchors]
