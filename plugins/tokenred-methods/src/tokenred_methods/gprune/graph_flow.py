"""Anchors by what flows to them: a few steps of a random walk on the graph of similar tokens."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.similarity import chunks
from tokenred.strategies.selectors.importance import top_index
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, unit_vectors, vectors_of


class GraphFlowConfig(StrategyConfig):
    """Settings of the graph-flow selector."""

    of: TokenCue = Field("features", description=OF_TEXT)
    threshold: float = Field(
        0.5, ge=-1, le=1, description="least cosine of two tokens that an edge joins"
    )
    temperature: float = Field(
        0.03, gt=0, le=1e6, description="of the soft-max over the edges of a token"
    )
    steps: int = Field(5, ge=0, le=1000, description="steps of the walk")


class GraphFlowSelector(AnchorSelector):
    """Let the lengths of the tokens flow along a graph, and select those that most arrives at.

    An edge joins tokens of a frame whose cosine reaches a threshold, each with itself, too. A step
    hands what a token has to its neighbours by the soft-max of their cosines. What a token has in
    the end is divided by the number of its edges.

    Shapes
    ------
    ``of`` : (frames, tokens, width)      returns : (frames, n_anchors), most flow first

    Source
    ------
    G-Prune, arXiv 2501.02268; jytmelon/G-Prune@762c637. Licence of source: none stated (written
    from our description).
    Differs: edges are counted as such, in float32; in half precision the release may lose those
    near the threshold, and their number with them.
    """

    config: GraphFlowConfig

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared."""
        return needs_of(self.config.of)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the tokens with most flow."""
        unit = unit_vectors(tokens, self.config.of)
        own = vectors_of(tokens, self.config.of).norm(dim=-1)
        flow = [
            self._flow(unit[some], own[some], tokens.keep[some])
            for some in chunks(len(own), own.shape[1] ** 2, own.device)
        ]
        return top_index(torch.cat(flow).masked_fill(~tokens.keep, -torch.inf), n_anchors)

    def _flow(
        self,
        unit: Float[Tensor, "frames tokens width"],
        own: Float[Tensor, "frames tokens"],
        keep: Tensor,
    ) -> Float[Tensor, "frames tokens"]:
        cosine = unit @ unit.mT
        joined = (cosine >= self.config.threshold) & keep[:, None] & keep[..., None]
        joined |= torch.eye(len(keep[0]), dtype=torch.bool, device=keep.device)
        scaled = cosine / self.config.temperature
        walk = scaled.masked_fill(~joined, -torch.inf).softmax(-1)
        flow = own[:, None].masked_fill(~keep[:, None], 0.0)
        for _ in range(self.config.steps):
            flow = flow @ walk
        return flow[:, 0] / joined.sum(-1)
