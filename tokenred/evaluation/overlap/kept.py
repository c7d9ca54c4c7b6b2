"""Which tokens of a clip a reduction keeps, read from its linear map; no label is needed.

``W`` (outputs, sources) is the trace of a reduction: it maps the encoder's tokens of a clip, frame
after frame and *before* the model's own pooling, to the tokens that the LLM reads. Pruners, mergers
and pooling are all such maps, so all of them are compared on the same sources.

``V`` is ``W`` without signs and with every row scaled to sum one: ``V[i, j]`` is the share of
source ``j`` in output ``i``. Shares below ``NEGLIGIBLE`` count as zero.

Source
------
The comparison of kept sets follows Haurum et al., "Which Tokens to Use?" (ICCV workshops 2023),
arXiv 2308.04657; the adjustment for chance is that of Hubert and Arabie, "Comparing Partitions"
(Journal of Classification 2, 1985).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenred.errors import InputError
from tokenred.kernels.pooling import PoolMode, pooled_grid
from tokenred.kernels.sparse import sparse_map
from tokenred.models.splice import token_cells
from tokenred.pipeline.flow import NATIVE_STRIDE
from tokenred.types import ReducedTokens, VisualTokens

NEGLIGIBLE = 1e-6
"""Shares of an output below this are arithmetic noise."""


@dataclass(frozen=True)
class KeptTokens:
    """The tokens of one clip that one pipeline keeps.

    Attributes
    ----------
    places : (frames, cells) cells of the grid that the LLM would read, those at which an output
        token stands; two tokens at one place count once
    importance : (sources,) column sums of ``V``: how many output tokens' worth of content comes
        from each encoder token; sums to the number of outputs
    """

    places: Bool[Tensor, "frames cells"]
    importance: Float[Tensor, "sources"]


@dataclass(frozen=True)
class Coverage:
    """How much of a clip the outputs cover, all as shares in 0-1.

    Attributes
    ----------
    tokens : encoder tokens with any weight in any output
    effective_tokens : ``(sum w)^2 / (n sum w^2)`` over the importances ``w`` of the ``n`` encoder
        tokens: 1 if all weigh the same, ``k/n`` if ``k`` of them weigh the same and the others
        nothing. A method that merges all tokens with tiny weights covers everything, but not
        effectively.
    least_covered_frame : ``tokens`` of the frame in which it is smallest
    cells : cells of the LLM's grid at which an output stands in at least one frame
    frames : frames in which an output stands
    effective_frames : ``exp(entropy) / frames`` of the outputs' frames: 1 if spread evenly
    """

    tokens: float
    effective_tokens: float
    least_covered_frame: float
    cells: float
    frames: float
    effective_frames: float


def llm_grid(tokens: VisualTokens) -> tuple[int, int]:
    """Return the grid of one frame that the unreduced LLM reads."""
    mode: PoolMode = tokens.native_pool  # type: ignore[assignment]
    return pooled_grid(tokens.grid, mode, NATIVE_STRIDE)


def source_shares(reduced: ReducedTokens) -> Tensor:
    """Return ``V``, sparse (outputs, sources) in float64.

    Raises
    ------
    InputError
        If the reduction was run without its trace, or an output holds nothing.
    """
    if reduced.trace is None:
        raise InputError("kept tokens are read from the trace: run the pipeline with trace=True")
    trace = reduced.trace.coalesce()
    index, weight = trace.indices(), trace.values().double().abs()
    total = weight.new_zeros(trace.shape[0]).index_add(0, index[0], weight)
    if not bool((total > 0).all()):
        raise InputError("an output token has no source token")
    share = weight / total[index[0]]
    real = share >= NEGLIGIBLE
    return sparse_map(index[:, real], share[real], (trace.shape[0], trace.shape[1]))


def kept_tokens(reduced: ReducedTokens, tokens: VisualTokens) -> KeptTokens:
    """Return which of ``tokens`` a reduction kept."""
    grid = llm_grid(tokens)
    places = torch.zeros(len(tokens.keep), grid[0] * grid[1], dtype=torch.bool)
    places[reduced.frame_index.cpu(), token_cells(reduced, grid).cpu()] = True
    share = source_shares(reduced)
    importance = torch.zeros(share.shape[1], dtype=torch.float64, device=share.device)
    return KeptTokens(places, importance.index_add(0, share.indices()[1], share.values()).cpu())


def iou(one: Bool[Tensor, "..."], other: Bool[Tensor, "..."]) -> float:
    """Return the intersection over the union of two sets; 1 for two empty ones."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def overlap_coefficient(one: Bool[Tensor, "..."], other: Bool[Tensor, "..."]) -> float:
    """Return the intersection over the smaller set: 1 if one holds the other; for unequal sizes."""
    smaller = min(int(one.sum()), int(other.sum()))
    return int((one & other).sum()) / smaller if smaller else 1.0


def chance_iou(n_places: int, n_one: int, n_other: int) -> float:
    """Return the exact mean IoU of two independent random sets of these sizes.

    The intersection ``k`` is hypergeometric: the mean is that of ``k / (n_one + n_other - k)``. At
    a share ``r`` of the places each it is close to ``r / (2 - r)``: 5.3 % at 10 %.

    Raises
    ------
    InputError
        If a set has no place, or more than there are.
    """
    if not 0 < n_one <= n_places or not 0 < n_other <= n_places:
        raise InputError(f"sets of {n_one} and {n_other} of {n_places} places have no chance level")
    from scipy.stats import hypergeom

    k = np.arange(max(0, n_one + n_other - n_places), min(n_one, n_other) + 1)
    chance = hypergeom.pmf(k, n_places, n_one, n_other)
    return float((chance * k / (n_one + n_other - k)).sum())


def adjusted_iou(one: Bool[Tensor, "..."], other: Bool[Tensor, "..."]) -> float | None:
    """Return ``(IoU - chance) / (1 - chance)``.

    0 is what random sets of these sizes have, 1 the same set, negative means that the two avoid
    each other. Sets of different sizes stay below 1; ``overlap_coefficient`` says whether one holds
    the other. None if a set holds all places or none: then there is nothing to choose.
    """
    sizes = sorted((int(one.sum()), int(other.sum())))
    if sizes[1] == one.numel() or sizes[0] == 0:
        return None
    expected = chance_iou(one.numel(), *sizes)
    return (iou(one, other) - expected) / (1 - expected)


def rank_correlation(
    one: Float[Tensor, "sources"], other: Float[Tensor, "sources"]
) -> float | None:
    """Return Spearman's correlation of two importances; equal ones share their mean rank.

    For two pruners without pooling it is the correlation of two binary masks. Importances are
    rounded to ``NEGLIGIBLE`` first. None if one of them is the same for all tokens.
    """
    from scipy.stats import rankdata

    ranks = [rankdata((each.double() / NEGLIGIBLE).round().numpy()) for each in (one, other)]
    first, second = (rank - rank.mean() for rank in ranks)
    scale = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else None


def coverage(chosen: KeptTokens) -> Coverage:
    """Return how much of a clip the outputs cover."""
    weight = chosen.importance
    per_frame = (weight.reshape(len(chosen.places), -1) > 0).double().mean(-1)
    stands = chosen.places.double().sum(-1)
    time = (stands / stands.sum()).clamp_min(1e-300)
    return Coverage(
        tokens=float((weight > 0).double().mean()),
        effective_tokens=float(weight.sum() ** 2 / (len(weight) * (weight**2).sum())),
        least_covered_frame=float(per_frame.min()),
        cells=float(chosen.places.any(0).double().mean()),
        frames=float((stands > 0).double().mean()),
        effective_frames=float((-(time * time.log()).sum()).exp() / len(time)),
    )
