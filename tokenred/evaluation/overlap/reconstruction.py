"""Reconstruction error of all tokens of a clip from the kept ones."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.evaluation.overlap.kept import source_shares
from tokenred.types import ReducedTokens, VisualTokens


@dataclass(frozen=True)
class Reconstruction:
    """Reconstruction error of all encoder tokens of a clip from the outputs.

    ``x_j`` are the encoder's tokens before the model's pooling, ``y_i`` the outputs, ``V`` as in
    ``tokenred.evaluation.overlap.kept``. Errors are relative Frobenius errors ``||X - X'|| / ||X -
    mean(X)||``, with the mean over the clip: 0 is perfect, 1 is as bad as one mean token for all,
    more is possible. A clip whose tokens are all equal has none.

    Attributes
    ----------
    error : transport back. Every source is approximated by the outputs that it flowed into,
        ``x'_j = sum_i V[i, j] y_i / sum_i V[i, j]``; a source without any weight (a dropped one) by
        the mean of all outputs.
    cosine : mean cosine of ``x_j`` and that ``x'_j``
    least_squares_error : a lower bound of ``error``. The tokens of one frame are approximated by
        the best linear combinations, chosen with the features in hand, of the outputs that hold
        anything of this frame and of the mean output. It says what is lost for good, not what an
        LLM can make of the rest; it is 0 where a frame has as many such outputs as features have
        dimensions.
    nearest_error : every source is approximated by the output that is nearest to it in the whole
        clip, wherever it flowed; the same for pruners and mergers
    radius : the largest of those distances, divided by the root mean square distance of the tokens
        from their mean: the k-centre objective
    """

    error: float
    cosine: float
    least_squares_error: float
    nearest_error: float
    radius: float


def reconstruct(reduced: ReducedTokens, tokens: VisualTokens) -> Reconstruction:
    """Reconstruct all encoder tokens from the outputs, frame by frame, in float64."""
    share = source_shares(reduced)
    entry, weight = share.indices(), share.values()
    n_tokens = tokens.features.shape[1]
    frame_of = entry[1] // n_tokens
    outputs = reduced.features.double()
    mean_output = outputs.mean(0)
    centre = tokens.features.mean((0, 1), dtype=torch.float64)
    total = back_loss = least_loss = near_loss = widest = cosines = 0.0
    for frame, features in enumerate(tokens.features):
        source = features.double()
        here = frame_of == frame
        used, row = entry[0, here].unique(return_inverse=True)
        held = outputs[used]
        flow = source.new_zeros(n_tokens, len(used))
        flow[entry[1, here] - frame * n_tokens, row] = weight[here]
        amount = flow.sum(-1, keepdim=True)
        back = torch.where(amount > 0, flow @ held / amount.clamp_min(1e-300), mean_output)
        near = outputs[_nearest(source, outputs)]
        total += _squares(source - centre)
        back_loss += _squares(source - back)
        least_loss += _squares(_residual(source, torch.cat([held, mean_output[None]])))
        near_loss += _squares(source - near)
        widest = max(widest, float((source - near).norm(dim=-1).max()))
        cosines += float(torch.cosine_similarity(source, back, dim=-1).sum())
    n_sources = tokens.features.shape[0] * n_tokens

    def relative(loss: float) -> float:
        return math.sqrt(loss / total) if total else 0.0

    return Reconstruction(
        error=relative(back_loss),
        cosine=cosines / n_sources,
        least_squares_error=relative(least_loss),
        nearest_error=relative(near_loss),
        radius=widest / math.sqrt(total / n_sources) if total else 0.0,
    )


def _squares(values: Float[Tensor, "..."]) -> float:
    return float((values**2).sum())


def _nearest(source: Float[Tensor, "tokens dim"], outputs: Float[Tensor, "outputs dim"]) -> Tensor:
    """Return the nearest output of every source, by Euclidean distance."""
    return ((outputs**2).sum(-1) - 2 * source @ outputs.T).argmin(-1)


def _residual(
    source: Float[Tensor, "tokens dim"], basis: Float[Tensor, "vectors dim"]
) -> Float[Tensor, "tokens dim"]:
    """Return what is left of the sources behind their projection on the span of the basis."""
    _, size, directions = torch.linalg.svd(basis, full_matrices=False)
    directions = directions[size > 1e-12 * size.max()]
    return source - source @ directions.T @ directions
