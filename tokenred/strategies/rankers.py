"""Rankers: which visual tokens stay, seen from between two layers of the LLM."""

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import CapabilityError
from tokenred.interfaces import TokenRanker
from tokenred.types import LayerState


def text_after(state: LayerState) -> Int[Tensor, "text"]:
    """Return the text tokens behind the last image or video; the last token if there are none."""
    places = torch.arange(len(state.clip), device=state.clip.device)
    last_visual = places[state.clip >= 0].max() if bool((state.clip >= 0).any()) else -1
    behind = places[(places > last_visual) & (places <= state.last)]
    return behind if len(behind) else places[[state.last]]


class LastQueryRanker(TokenRanker):
    """Score a token by the attention that the last token of the prompt gave it, mean over heads.

    The attention is that of the layer before, which has been computed anyway.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    FastV, arXiv 2403.06764; pkunlp-icler/FastV@d165972 ``LlamaModel.forward`` (no licence file at
    the root). HoliTom, arXiv 2505.21334, ranks alike. Written from our description.
    Differs: nothing.
    """

    reads = frozenset({"attention"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the head mean of the last row."""
        last = candidates.new_tensor([state.last])
        return state.attention(last).mean(0)[0, candidates]


class NextLayerRanker(TokenRanker):
    """Score a token by the attention that the prompt's last token would give it in the next layer.

    One row is computed with the next layer's own norm, queries and keys, so no attention has to be
    caught; mean over heads.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    PyramidDrop, arXiv 2410.17247; Cooperx521/PyramidDrop@6444f30 ``pdrop_rank_drop``. Licence of
    source: MIT (written from our description).
    Differs: grouped queries work; the release knows models with as many keys as queries only.
    """

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the head mean of the last row of the layer to come."""
        last = candidates.new_tensor([state.last])
        return state.probe(last, layer="next").mean(0)[0, candidates]


class PositionFreeRanker(TokenRanker):
    """Score a token by the most attention that any head of any question token would give it.

    The attention is computed for this purpose with the queries and keys of the layer before, before
    their rotary embedding and without a mask, so that neither distance nor order counts. Question
    tokens are the text behind the last image or video.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,)

    Source
    ------
    PruneVid, arXiv 2412.16117; Visual-AI/PruneVid@b12600c ``LlamaAttention.forward``,
    ``VTPWindowCache.obtain_language_attention``. Licence of source: CC BY-NC-SA 4.0 (written from
    our description).
    Differs: without text behind the video, the prompt's last token asks.
    """

    reads = frozenset({"previous-input"})

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return the largest entry of every column."""
        rows = state.probe(text_after(state), layer="previous", rotary=False, causal=False)
        return rows.amax((0, 1))[candidates]


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


class RandomRankerConfig(StrategyConfig):
    """Settings of the random ranker."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="another seed, another draw")


class RandomRanker(TokenRanker):
    """Score tokens at random.

    The draw follows from the seed, the layer and the numbers of tokens, so it is the same in every
    run and whatever stands beside a prompt in its batch.

    Shapes
    ------
    candidates : (candidates,)      returns : (candidates,) in [0, 1)

    Source
    ------
    A control of our own.
    Differs: there is nothing to differ from.
    """

    config: RandomRankerConfig

    def rank(self, state: LayerState, candidates: Tensor) -> Tensor:
        """Return one uniform number for each candidate."""
        seed = 0
        for part in (self.config.seed, state.layer, state.n_visual):
            seed = (seed * 1_000_003 + part) % 2**63
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(len(state.hidden), generator=generator)
        return draw.to(candidates.device)[candidates]
