"""Couples groups of tokens of a flow, and applies all merges of a stage at once."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.interfaces import Aggregator
from tokenred.kernels.merge import apply_merge, merge_among
from tokenred.kernels.sparse import sparse_map
from tokenred.pipeline.flow import Flow, TokenTable, Transport, items, uniform_mass
from tokenred.types import Coupling, MergeWeights


@dataclass(frozen=True)
class Problem:
    """A batch of independent couplings between tokens of one video.

    Attributes
    ----------
    anchors, sources : flat places, frame * tokens + token; padding repeats a place
    anchor_real, source_real : False on padding
    frames : if given, the sources are all tokens of these frames, a problem for each frame; what is
        no source counts as padding and is passed by, so that nothing need be gathered
    """

    anchors: Int[Tensor, "*batch anchors"]
    anchor_real: Bool[Tensor, "*batch anchors"]
    sources: Int[Tensor, "*batch sources"]
    source_real: Bool[Tensor, "*batch sources"]
    frames: slice | None = None


@dataclass(frozen=True)
class Merge:
    """A problem with its solution; ``sized`` if the weights count tokens already."""

    problem: Problem
    weights: MergeWeights
    sized: bool = False


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
) -> Coupling:
    """Couple the groups of a problem and note how the solver did; ``apart``: never with itself."""
    left = table[problem.sources] if problem.frames is None else items(table.all, problem.frames)
    right = table[problem.anchors]
    own = None
    if apart:
        own = problem.sources[..., :, None] == problem.anchors[..., None, :]
    coupling = transport(left, right, *masses(flow, problem, mass, transport), own)
    flow.note(coupling)
    return coupling


def solve(problem: Problem, coupling: Coupling, aggregator: Aggregator, mass: str) -> Merge:
    """Turn a coupling of masses of a kind into a merge."""
    return Merge(problem, aggregator.weights(coupling), mass == "size")


def apply(flow: Flow, merges: Iterable[Merge], n_anchors: int) -> None:
    """Write all merges into the tokens; every one reads what was there before.

    Features, masses, keys (what they are compared by moves with them) and the trace. Merges are
    taken one by one, so that the plans of all of them need not exist at once; they have at most
    ``n_anchors`` anchors.
    """
    tokens, done = flow.tokens, []
    keys = {name: cue for name, cue in tokens.cues.items() if name.startswith("keys@")}
    places, mass, features = (_Rows(n_anchors) for _ in range(3))
    moved = {name: _Rows(n_anchors) for name in keys}
    for merge in merges:
        real = merge.problem.anchor_real
        places.add(merge.problem.anchors, real)
        mass.add(_mass(flow.mass, merge).detach(), real)
        features.add(_merged(tokens.features, merge), real)
        for name, rows in moved.items():
            rows.add(_merged(keys[name], merge), real)
        if flow.tracing:
            done.append(merge)
    if not places.parts:
        return
    where = places.all
    for name, rows in moved.items():
        keys[name] = keys[name].flatten(0, 1).index_put((where,), rows.all).view_as(keys[name])
    if flow.tracing:
        flow.extend_trace(_stage_map(tokens.keep.numel(), where, done))
    flow.mass = flow.mass.flatten().index_put((where,), mass.all).view_as(flow.mass)
    flow.update(cues={**tokens.cues, **keys})
    flow.write(where, features.all)


class _Rows:
    """Joins what merges have for their anchors, without padding, in a tensor that is made once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.parts: list[Tensor] = []
        self._room: Tensor | None = None
        self._filled = 0

    def add(self, values: Tensor, real: Tensor) -> None:
        """Take the rows of one merge; if no others can come, as they lie."""
        rows = values.flatten(0, real.ndim - 1) if bool(real.all()) else values[real]
        if len(rows) < self._most and not rows.requires_grad:
            if self._room is None:
                self._room = rows.new_empty((self._most, *rows.shape[1:]))
            start, self._filled = self._filled, self._filled + len(rows)
            rows = self._room[start : self._filled].copy_(rows)
        self.parts.append(rows)

    @property
    def all(self) -> Tensor:
        """The rows of all merges."""
        if self._room is not None and self._filled == sum(map(len, self.parts)):
            return self._room[: self._filled]
        return self.parts[0] if len(self.parts) == 1 else torch.cat(self.parts)


def _merged(
    values: Float[Tensor, "frames tokens dim"], merge: Merge
) -> Float[Tensor, "*batch anchors dim"]:
    problem, flat = merge.problem, values.flatten(0, 1)
    if problem.frames is not None:
        inside = problem.anchors % values.shape[1]
        return merge_among(values[problem.frames], inside, merge.weights)

    def gather(index: Tensor) -> Tensor:
        return flat.index_select(0, index.flatten()).view(*index.shape, flat.shape[-1])

    return apply_merge(gather(problem.anchors), gather(problem.sources), merge.weights)


def _mass(mass: Tensor, merge: Merge) -> Tensor:
    """Return how many tokens each anchor stands for, one part of its own counted as before."""
    own = merge.weights.anchor.to(mass.dtype)
    own = own.where(own > 0, 1.0)
    if merge.sized:
        shipped = merge.weights.source.to(mass.dtype).sum(-2)
        return mass.flatten()[merge.problem.anchors] * (1 + shipped / own)
    return _merged(mass[..., None], merge)[..., 0] / own


def _stage_map(size: int, places: Tensor, merges: Iterable[Merge]) -> Tensor:
    """Return the sparse map of the merges over flat places; other rows are the identity."""
    everything = torch.arange(size, device=places.device)
    diagonal = torch.ones(size, device=places.device)
    index, values = [], []
    for merge in merges:
        problem, weights = merge.problem, merge.weights
        real = problem.anchor_real
        rows = problem.anchors[real]
        diagonal[rows] = weights.anchor.detach().float()[real]
        moved = weights.source.detach().float().mT[real]  # (anchors, sources of the same batch)
        columns = problem.sources[..., None, :].expand(*real.shape, -1)[real]
        hit = moved != 0
        index.append(torch.stack([rows[:, None].expand_as(columns)[hit], columns[hit]]))
        values.append(moved[hit])
    index.append(torch.stack([everything, everything]))
    values.append(diagonal)
    return sparse_map(torch.cat(index, 1), torch.cat(values), (size, size))
