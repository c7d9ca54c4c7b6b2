"""Whole reductions on a GPU: cost, transport and merge, with shapes known before they start.

Nothing here reads a value on the host, so each of them can be captured in a CUDA graph.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.kernels.triton.merge import average_plan
from tokenred.kernels.triton.similarity import Precision, cosine_cost
from tokenred.kernels.triton.sinkhorn import BackendSolution, solve


@dataclass(frozen=True)
class Sweeps:
    """How the transport is solved; the settings of the ``sinkhorn`` coupler.

    Attributes
    ----------
    epsilon : regularisation, in the cost's unit
    max_iter, stop, tolerance, last, rho : as in ``solve``
    """

    epsilon: float = 0.1
    max_iter: int = 100
    stop: Literal["none", "residual", "scaling"] = "residual"
    tolerance: float = 1e-3
    last: Literal["anchor", "source"] = "anchor"
    rho: float | None = 0.8


@dataclass(frozen=True)
class MergedFrames:
    """Merged anchors of every frame, and the transport that merged them."""

    anchors: Float[Tensor, "frames anchors dim"]
    solved: BackendSolution


@dataclass(frozen=True)
class MergedSegments:
    """Merged anchors of every segment, the tokens of later frames that stay, and their scores.

    Attributes
    ----------
    anchors : (segments, anchors, dim), those of the first frame after all others were merged
    stays : (segments, later frames, sources)
    score : (segments, later frames, sources), the largest probability of each source
    solved : the transport of each later frame
    """

    anchors: Float[Tensor, "segments anchors dim"]
    stays: Bool[Tensor, "segments later sources"]
    score: Float[Tensor, "segments later sources"]
    solved: tuple[BackendSolution, ...]


def merge_frames(
    features: Float[Tensor, "frames tokens dim"],
    anchor_index: Int[Tensor, "frames anchors"],
    *,
    sweeps: Sweeps,
    anchor_real: Bool[Tensor, "frames anchors"] | None = None,
    strength: float = 1.0,
    mass: Literal["plan", "unit"] = "plan",
    precision: Precision = "ieee",
) -> MergedFrames | None:
    """Merge the tokens of every frame into its anchors, or return None where this cannot run.

    The frame stage with the cosine cost, the ``sinkhorn`` coupler, uniform marginals and the
    ``mass-normalised`` aggregator. All tokens are multiplied with the anchors, and anchors have no
    mass as sources: nothing is gathered.

    Parameters
    ----------
    features : float32, bfloat16 or float16
    anchor_index : the anchors among the tokens of their frame
    anchor_real : False on padding of frames with fewer anchors
    strength, mass : as in the ``mass-normalised`` aggregator
    precision : of the cost of float32 features
    """
    cost = cosine_cost(features, anchor_index, epsilon=sweeps.epsilon, precision=precision)
    if cost is None:
        return None
    if anchor_real is None:
        anchor_real = torch.ones_like(anchor_index, dtype=torch.bool)
    # Padding may name a token that is no anchor, or one that is: amin, not a write.
    source_real = torch.ones(features.shape[:2], dtype=torch.int8, device=features.device)
    source_real = source_real.scatter_reduce(
        1, anchor_index, (~anchor_real).to(torch.int8), "amin"
    ).bool()
    source, anchor = _uniform(source_real), _uniform(anchor_real)
    solved = _solved(cost, source, anchor, sweeps)
    if solved is None:
        return None
    factor = None
    if mass == "unit":
        factor = torch.where(source > 0, 1 / source.where(source > 0, 1.0), 0.0)
    anchors = average_plan(
        features, anchor_index, solved.plan, source_weight=factor, strength=strength
    )
    return None if anchors is None else MergedFrames(anchors, solved)


def merge_segments(
    anchors: Float[Tensor, "segments anchors dim"],
    sources: Float[Tensor, "segments later sources dim"],
    *,
    sweeps: Sweeps,
    n_keep: Int[Tensor, "segments later"],
    anchor_real: Bool[Tensor, "segments anchors"] | None = None,
    source_real: Bool[Tensor, "segments later sources"] | None = None,
    strength: float = 1.0,
    precision: Precision = "ieee",
) -> MergedSegments | None:
    """Merge later frames into the first one's anchors, all segments at once; or return None.

    The segment stage with the cosine cost, the ``sinkhorn`` coupler, score ``max-probability``,
    decision ``count`` and the ``row-normalised`` aggregator. Sequential over the frames of a
    segment alone; shorter segments are padded with frames that have no real source.

    Parameters
    ----------
    anchors : of the first frame of each segment
    sources : tokens of the later frames, in order
    n_keep : how many sources of each frame stay tokens of their own
    anchor_real, source_real : False on padding
    """
    if anchor_real is None:
        anchor_real = torch.ones(anchors.shape[:2], dtype=torch.bool, device=anchors.device)
    if source_real is None:
        source_real = torch.ones(sources.shape[:3], dtype=torch.bool, device=sources.device)
    anchor = _uniform(anchor_real)
    stays, scores, solutions = [], [], []
    for later in range(sources.shape[1]):
        tokens, real = sources[:, later], source_real[:, later]
        cost = cosine_cost(tokens, anchors, epsilon=sweeps.epsilon, precision=precision)
        if cost is None:
            return None
        solved = _solved(cost, _uniform(real), anchor, sweeps)
        if solved is None:
            return None
        rows = solved.plan.sum(-1).clamp_min(1e-9)
        score = solved.plan.amax(-1) / rows
        order = score.masked_fill(~real, torch.inf).argsort(dim=-1, stable=True)
        rank = torch.empty_like(order).scatter_(1, order, _places(order))
        stay = (rank < n_keep[:, later, None]) & real
        merged = average_plan(
            tokens, anchors, solved.plan, source_weight=(~stay) / rows, strength=strength
        )
        if merged is None:
            return None
        anchors = merged
        stays.append(stay)
        scores.append(score)
        solutions.append(solved)
    return MergedSegments(anchors, torch.stack(stays, 1), torch.stack(scores, 1), tuple(solutions))


def _places(order: Tensor) -> Tensor:
    return torch.arange(order.shape[1], device=order.device).expand_as(order)


def _uniform(real: Tensor) -> Tensor:
    return real / real.sum(-1, keepdim=True).clamp_min(1)


def _solved(
    scaled: Tensor, source: Tensor, anchor: Tensor, sweeps: Sweeps
) -> BackendSolution | None:
    return solve(
        scaled,
        source,
        anchor,
        max_iter=sweeps.max_iter,
        stop=sweeps.stop,
        tolerance=sweeps.tolerance,
        last=sweeps.last,
        rho=sweeps.rho,
    )


Result = TypeVar("Result")


class CapturedGraph(Generic[Result]):
    """A reduction in one CUDA graph, for inputs of one shape.

    Calling it copies the inputs into the graph's own tensors and replays; the result lies in the
    graph's memory and is overwritten by the next call.

    Raises
    ------
    RuntimeError
        If the reduction cannot run on these inputs, or reads a value on the host.
    """

    def __init__(self, run: Callable[..., Result | None], inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compile and warm up outside of the capture
            for _ in range(2):
                run(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            result = run(*self.inputs)
        if result is None:
            raise RuntimeError("the Triton kernels cannot run on these inputs")
        self.result = result

    def __call__(self, *inputs: Tensor) -> Result:
        """Copy the inputs and replay."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.result
