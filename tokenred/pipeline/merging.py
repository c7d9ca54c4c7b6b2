"""From a problem to its merge: masses, coupling, weights."""

from dataclasses import replace

import torch
from torch import Tensor

from tokenred.interfaces import Aggregator
from tokenred.kernels.merge import apply_merge
from tokenred.pipeline.flow import Flow, TokenTable, Transport, uniform_mass
from tokenred.pipeline.merges import Problem, Solved
from tokenred.types import Coupling, MergeWeights, TokenGroup


def mass_needs(mass: str) -> frozenset[str]:
    """Return the cue that a ``mass`` setting names, if it names one."""
    return frozenset() if mass in ("uniform", "size") else frozenset({mass})


def masses(flow: Flow, problem: Problem, mass: str, transport: Transport) -> tuple[Tensor, Tensor]:
    """Return the marginals of sources and anchors, zero on padding.

    A coupler that meets both marginals needs equal totals: those of the anchors are scaled then.
    """
    sides = (problem.sources, problem.source_real), (problem.anchors, problem.anchor_real)
    if mass == "uniform":
        return uniform_mass(sides[0][1]), uniform_mass(sides[1][1])
    values = flow.mass if mass == "size" else flow.tokens.cues[mass]
    flat = values.flatten().to(torch.promote_types(values.dtype, torch.float32)).clamp_min(0)
    source, anchor = (flat[places] * real for places, real in sides)
    if transport.coupler.marginals == "both":
        total = anchor.sum(-1, keepdim=True)
        anchor = anchor * source.sum(-1, keepdim=True) / total.where(total > 0, 1.0)
    return source, anchor


def couple(
    flow: Flow,
    table: TokenTable,
    problem: Problem,
    transport: Transport,
    *,
    mass: str = "uniform",
    apart: bool = False,
    moved: MergeWeights | None = None,
) -> Coupling:
    """Couple the groups of a problem and note how the solver did.

    Parameters
    ----------
    apart : never a token with itself
    moved : what anchors have taken in of these sources before
    """
    whole = problem.frames
    left = table[problem.sources] if whole is None else table.frames(whole)
    right = table[problem.anchors]
    if moved is not None:
        right = _moved(right, left, moved)
    own = problem.sources[:, :, None] == problem.anchors[:, None, :] if apart else None
    coupling = transport(left, right, *masses(flow, problem, mass, transport), own)
    flow.note(coupling)
    return coupling


def in_turn(first: MergeWeights, then: MergeWeights) -> MergeWeights:
    """Return the weights of two merges of the same sources, one after the other."""
    return MergeWeights(
        first.anchor * then.anchor, first.source * then.anchor[..., None, :] + then.source
    )


def _moved(anchors: TokenGroup, sources: TokenGroup, weights: MergeWeights) -> TokenGroup:
    """Return anchors with what they took in, in their features and in cues that are vectors."""
    cues = {
        name: apply_merge(cue, sources.cues[name], weights)
        if cue.ndim == anchors.features.ndim
        else cue
        for name, cue in anchors.cues.items()
    }
    return replace(
        anchors, features=apply_merge(anchors.features, sources.features, weights), cues=cues
    )


def weigh(problem: Problem, coupling: Coupling, aggregator: Aggregator, mass: str) -> Solved:
    """Turn a coupling of masses of a kind into a merge."""
    return Solved(problem, aggregator.weights(coupling), mass == "size")
