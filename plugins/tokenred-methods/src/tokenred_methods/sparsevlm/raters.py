"""Which question tokens judge the visual ones, and their attention."""

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import CapabilityError
from tokenred.interfaces import TokenRanker
from tokenred.strategies.rankers import text_after
from tokenred.types import LayerState


class TextRatersConfig(StrategyConfig):
    """Settings of the text raters."""

    heads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="only this many heads, those with the most attention from raters to "
        "candidates; 14 in SparseVLM+, null for all heads",
    )
    divide_rotary: bool = Field(
        False,
        description="divide the attention by the logits that rotary embedding alone gives to "
        "queries and keys of ones, as SparseVLM+ does",
    )


class TextRatersRanker(TokenRanker):
    """Score a token by the mean attention of the raters: question tokens that concern the video.

    A question token is a rater when its share of the visual tokens, soft-max over the question of
    the inner products of the embeddings, is above average. Raters are chosen once, from what enters
    the LLM. Question tokens are the text behind the last image or video.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Raises
    ------
    CapabilityError
        If ``divide_rotary`` is on and the LLM has multimodal rotary positions.

    Source
    ------
    SparseVLM, arXiv 2410.04417; Gumpest/SparseVLMs@26a5f48 ``LlamaDynamicvitModel.forward``,
    ``attn_postprocess_topk``, ``select_attn_head_by_sum``; ``n_kept`` after
    ``attn_postprocess_rank`` of its video branch f05b898. Licence of source: Apache-2.0 (written
    from our description).
    Differs: if no question token is above average, as with a question of one token, all are raters
    (the release then divides by zero).
    """

    config: TextRatersConfig
    counts = True
    reads = frozenset({"attention"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the mean over heads and raters."""
        return self._rows(state, candidates).mean((0, 1))

    def n_kept(self, state: LayerState, candidates: Tensor) -> int:
        """Return the rank of the attention matrix between raters and candidates."""
        matrix = self._rows(state, candidates).mean(0)
        return int(torch.linalg.matrix_rank(matrix.float())) if matrix.numel() else 0

    def _rows(
        self, state: LayerState, candidates: Int[Tensor, "candidates"]
    ) -> Float[Tensor, "heads raters candidates"]:
        raters = self._raters(state)
        rows = state.attention(raters)[..., candidates]
        if self.config.divide_rotary:
            rows = rows / _rotary_logits(state, raters, candidates)
        if self.config.heads is not None:
            most = rows.sum((1, 2)).argsort(descending=True, stable=True)
            rows = rows[most[: self.config.heads]]
        return rows

    def _raters(self, state: LayerState) -> Int[Tensor, "raters"]:
        """Return the raters' places in the state; they are chosen once and remembered."""
        if "raters" not in state.memory:
            visual = state.origin[state.visual & (state.origin >= 0)]
            question = state.origin[text_after(state)]
            state.memory["raters"] = choose_raters(state.embeddings, visual, question)
        return torch.isin(state.origin, state.memory["raters"]).nonzero()[:, 0]


def choose_raters(
    embeddings: Float[Tensor, "prompt dim"],
    visual: Int[Tensor, "visual"],
    question: Int[Tensor, "question"],
) -> Int[Tensor, "raters"]:
    """Return those of ``question`` whose relevance for the visual tokens is above average."""
    relevance = rater_relevance(embeddings, visual, question)
    above = question[relevance > relevance.mean()]
    return above if len(above) else question


def rater_relevance(
    embeddings: Float[Tensor, "prompt dim"],
    visual: Int[Tensor, "visual"],
    question: Int[Tensor, "question"],
) -> Float[Tensor, "question"]:
    """Return the share of the visual tokens that each token of the question has."""
    wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    return (wide[visual] @ wide[question].mT).softmax(-1).mean(0)


def _rotary_logits(
    state: LayerState, queries: Int[Tensor, "queries"], keys: Int[Tensor, "keys"]
) -> Float[Tensor, "queries keys"]:
    if state.cos is None or state.sin is None:
        raise CapabilityError(
            "divide_rotary needs one position a token, which LLMs with multimodal rotary "
            "embeddings do not have"
        )
    width = state.cos.shape[-1]
    sign = torch.ones(width, device=state.cos.device)
    sign[: width // 2] = -1  # what the rotation pairs with the sine
    turned = state.cos.float() + sign * state.sin.float()
    return turned[queries] @ turned[keys].mT / width**0.5
