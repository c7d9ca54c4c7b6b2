"""Merge what is alike in consecutive frames, layer by layer, then prune once."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.interfaces import LayerReducer
from tokenred.types import LayerReduction, LayerState, LayerStep

NO_PREDECESSOR = -2.0
"""Below any cosine: the similarity of a token that follows none of its kind."""


class FrameFusionConfig(StrategyConfig):
    """Settings of FrameFusion."""

    cost: float = Field(
        0.3, gt=0, le=1, description="visual tokens of a layer, as a share, on average over layers"
    )
    similarity: float = Field(
        0.6, ge=-1, le=1, description="cosine from which a token joins the one a frame before"
    )
    merge_at_least: float = Field(
        0.1, ge=0, le=1, description="merging ends after a layer that merged a smaller share"
    )
    newlines: Literal["keep", "merge"] = Field(
        "keep",
        description="`merge` treats newline tokens like visual ones, as released: equal in all "
        "frames, they merge at once",
    )
    assumed_layers: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="layers in the budget; null: those of the LLM; 28 as released",
    )


class FrameFusionReducer(LayerReducer):
    """Average tokens with their likes in the frame before, until little is alike; then prune once.

    Before the first layer, and between attention and MLP of every layer, a token joins the token at
    the same place in the frame before when their cosine is high enough; a chain of joined tokens
    becomes its average, at the place of its first. When a layer merges little, the next step drops
    the tokens that the last query attends to least, just as many as meet the budget; when a merge
    would exceed the budget, only the most similar tokens join, and nothing is pruned.

    Shapes
    ------
    state.hidden : (tokens, dim)      returns : ``source`` (kept,), ``hidden`` (kept, dim)

    Source
    ------
    FrameFusion, arXiv 2501.01986; thu-nics/FrameFusion@fbec1d2 ``FrameFusion.forward``. Licence of
    source: MIT (written from our description).
    Differs: the budget counts the layers of the LLM (28 in the release, ``assumed_layers``);
    newline tokens stay (``newlines``); any grid and any number of images and videos; a budget that
    is already spent drops all visual tokens (the release raises).
    """

    config: FrameFusionConfig

    def steps(self, n_layers: int) -> list[LayerStep]:
        """Return one step before the first layer and one inside every layer."""
        inside = [LayerStep(i, "middle", frozenset({"attention"})) for i in range(n_layers)]
        return [LayerStep(0, "before"), *inside]

    def reduce(self, state: LayerState) -> LayerReduction | None:
        """Merge, or prune, or leave all as it is, by what the steps before have done."""
        phase = state.memory.setdefault("phase", "merge")
        sparsity: list[float] = state.memory.setdefault("sparsity", [])
        candidates = state.visual
        if self.config.newlines == "merge":
            candidates = candidates | state.newline
        n_candidates = int(candidates.sum())
        if phase == "done" or not n_candidates:
            return None
        ratio = dropped_share(
            sparsity, self.config.cost, self.config.assumed_layers or state.n_layers
        )
        if phase == "prune":
            state.memory["phase"] = "done"
            return self._prune(state, candidates, round(n_candidates * (1 - ratio)))
        order, similarity = place_similarity(state.hidden, token_kind(state, candidates))
        joins = similarity >= self.config.similarity
        share = int(joins.sum()) / n_candidates
        if share < ratio:
            sparsity.append(share)
            if share < self.config.merge_at_least:
                state.memory["phase"] = "prune"
        else:
            most = similarity.argsort(descending=True, stable=True)
            joins = torch.zeros_like(joins)
            joins[most[: int(ratio * n_candidates)]] = True
            state.memory["phase"] = "done"
        if not bool(joins.any()):
            return None
        hidden = merge_chains(state.hidden, order, joins)
        stays = torch.ones_like(candidates)
        stays[order[joins]] = False
        source = stays.nonzero()[:, 0]
        return LayerReduction(source, hidden[source])

    def _prune(
        self, state: LayerState, candidates: Bool[Tensor, "tokens"], n_kept: int
    ) -> LayerReduction | None:
        places = candidates.nonzero()[:, 0]
        if n_kept >= len(places):
            return None
        score = state.attention(places.new_tensor([state.last])).mean(0)[0, places]
        stays = ~candidates
        stays[places[score.argsort(descending=True, stable=True)[:n_kept]]] = True
        return LayerReduction(stays.nonzero()[:, 0])


def dropped_share(sparsity: Sequence[float], cost: float, n_layers: int) -> float:
    """Return the share to drop now, so that the layers see ``cost`` of the tokens on average.

    Parameters
    ----------
    sparsity : shares dropped so far, one for each layer passed
    """
    left, spent = 1.0, 0.0
    for share in sparsity:
        left *= 1 - share
        spent += left
    ahead = (n_layers - len(sparsity)) * left
    return min(1.0, max(0.0, 1 - (n_layers * cost - spent) / ahead)) if ahead > 0 else 0.0


def token_kind(state: LayerState, candidates: Bool[Tensor, "tokens"]) -> Int[Tensor, "tokens"]:
    """Number the tokens by clip, place in the frame and newline or not; -1 for all others.

    A token that was made inside the LLM has no place and is of no kind.
    """
    known = candidates & (state.token_index >= 0)
    n_places = int(state.token_index.max()) + 1
    kind = (state.clip * 2 + state.newline.long()) * n_places + state.token_index
    return kind.where(known, -1)


def place_similarity(
    hidden: Float[Tensor, "tokens dim"], kind: Int[Tensor, "tokens"]
) -> tuple[Int[Tensor, "sorted"], Float[Tensor, "sorted"]]:
    """Return the tokens by kind, then by place, and the cosine of each with the one before it.

    Tokens of kind -1 are left out; the first of a kind has the similarity ``NO_PREDECESSOR``.
    """
    order = kind.argsort(stable=True)[int((kind < 0).sum()) :]
    values = hidden[order].to(torch.promote_types(hidden.dtype, torch.float32))
    norm = values.norm(dim=-1).clamp_min(1e-12)
    similarity = values.new_full((len(order),), NO_PREDECESSOR)
    cosine = (values[1:] * values[:-1]).sum(-1) / (norm[1:] * norm[:-1])
    same = kind[order][1:] == kind[order][:-1]
    similarity[1:] = cosine.where(same, NO_PREDECESSOR)
    return order, similarity


def merge_chains(
    hidden: Float[Tensor, "tokens dim"],
    order: Int[Tensor, "sorted"],
    joins: Bool[Tensor, "sorted"],
) -> Float[Tensor, "tokens dim"]:
    """Return the hidden states with every token replaced that later ones in ``order`` join.

    It becomes the average of the chain; the tokens that join are left as they are.
    """
    if not len(order):
        return hidden
    chain = (~joins).cumsum(0) - 1
    heads = order[~joins]
    wide = hidden[order].to(torch.promote_types(hidden.dtype, torch.float32))
    total = wide.new_zeros(len(heads), wide.shape[-1]).index_add(0, chain, wide)
    length = chain.bincount(minlength=len(heads))
    merged = hidden.clone()
    merged[heads] = (total / length[:, None]).to(hidden.dtype)
    return merged
