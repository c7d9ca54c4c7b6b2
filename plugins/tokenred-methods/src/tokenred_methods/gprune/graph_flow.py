"""Anchors that gather most flow in a graph of similar tokens."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.similarity import chunks
from tokenred.strategies.selectors.importance import top_index
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, vectors_of


class GraphFlowConfig(StrategyConfig):
    """Settings of the graph-flow selector."""

    of: TokenCue = Field("features", description=OF_TEXT)
    similarity: float = Field(0.5, ge=-1, le=1, description="tokens are linked from this cosine on")
    temperature: float = Field(
        0.03, ge=1e-4, le=1e6, description="of the soft-max over the links of a token"
    )
    steps: int = Field(5, ge=0, le=1000, description="how often the flow goes over the links")


class GraphFlowSelector(AnchorSelector):
    """Select the tokens that gather most flow, for each of their links.

    Every token begins with its norm. In each step it hands what it has to the tokens that it is
    linked to, itself among them, in proportion to a soft-max of their cosines. In the end, flow is
    divided by the number of links.

    Shapes
    ------
    ``of`` : (frames, tokens, width)      returns : (frames, n_anchors), most flow first

    Source
    ------
    G-Prune, arXiv 2501.02268; jytmelon/G-Prune@762c637 ``llava_arch.py``. Licence of source: none
    stated, Apache-2.0 in the header of the file (written from our description).
    Differs: links are counted where the cosine makes them, in any precision; the release counts
    positive weights, and in half precision those of links at the threshold vanish. A token whose
    vector is zero is linked to itself alone.
    """

    config: GraphFlowConfig

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared."""
        return needs_of(self.config.of)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the anchors of every frame."""
        vectors = vectors_of(tokens, self.config.of)
        n = vectors.shape[1]
        parts = chunks(len(vectors), n * n, vectors.device)
        flow = torch.cat([self._flow(vectors[part], tokens.keep[part]) for part in parts])
        return top_index(flow.masked_fill(~tokens.keep, -torch.inf), n_anchors)

    def _flow(self, vectors: Tensor, keep: Tensor) -> Tensor:
        """Return what flows together at each token of some frames, for each of its links."""
        norm = vectors.norm(dim=-1)
        unit = vectors / norm.where(norm > 0, 1.0)[..., None]
        cosine = unit @ unit.mT
        itself = torch.eye(cosine.shape[-1], dtype=torch.bool, device=cosine.device)
        linked = (cosine >= self.config.similarity) | itself
        linked &= keep[:, :, None] & keep[:, None, :]
        scores = (cosine / self.config.temperature).masked_fill(~linked, -torch.inf)
        passed = scores.softmax(-1).nan_to_num(0.0)  # a dropped token has no link
        flow = norm.masked_fill(~keep, 0.0)[:, None]
        for _ in range(self.config.steps):
            flow = flow @ passed
        return flow[:, 0] / linked.sum(-1).clamp_min(1)
