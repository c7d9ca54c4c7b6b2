"""What merges are: linear maps from tokens to the tokens that take them in."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.kernels.merge import apply_merge, merge_among
from tokenred.kernels.sparse import sparse_map
from tokenred.pipeline.patched import Patched
from tokenred.types import Grouping, MergeWeights

Entries = tuple[Tensor, Tensor, Tensor]
"""Rows (anchors) and columns (all that goes in) of a map over flat places, and its values."""


class Merge(ABC):
    """Tokens that take in others, and with which weights. ``Flow.merge`` applies it."""

    @property
    @abstractmethod
    def places(self) -> Int[Tensor, "anchors"]:
        """Flat places, frame * tokens + token, of the tokens that take in; all different."""

    @abstractmethod
    def of(self, values: Patched) -> Float[Tensor, "anchors dim"]:
        """Return what the map makes of values of all tokens."""

    @abstractmethod
    def masses(self, mass: Float[Tensor, "frames tokens"]) -> Float[Tensor, "anchors"]:
        """Return how many tokens each anchor then stands for."""

    @abstractmethod
    def entries(self) -> Entries:
        """Return all entries of the map."""


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

    anchors: Int[Tensor, "batch anchors"]
    anchor_real: Bool[Tensor, "batch anchors"]
    sources: Int[Tensor, "batch sources"]
    source_real: Bool[Tensor, "batch sources"]
    frames: slice | None = None


@dataclass(frozen=True)
class Solved(Merge):
    """The merge of a problem and its weights; ``sized`` if these count tokens already."""

    problem: Problem
    weights: MergeWeights
    sized: bool = False

    @cached_property
    def places(self) -> Tensor:
        """The anchors, without padding."""
        return self._real(self.problem.anchors)

    @cached_property
    def _padded(self) -> bool:
        return not bool(self.problem.anchor_real.all())

    def _real(self, values: Tensor) -> Tensor:
        return values[self.problem.anchor_real] if self._padded else values.flatten(0, 1)

    def of(self, values: Patched) -> Tensor:
        """Apply the weights, one GEMM."""
        return self._real(self._of(values))

    def _of(self, values: Patched) -> Tensor:
        problem = self.problem
        if problem.frames is not None:
            whole = values.whole
            inside = problem.anchors % whole.shape[1]
            return merge_among(whole[problem.frames], inside, self.weights)
        return apply_merge(values.at(problem.anchors), values.at(problem.sources), self.weights)

    def masses(self, mass: Tensor) -> Tensor:
        """Count one part of an anchor's own as before."""
        own = self.weights.anchor.to(mass.dtype)
        own = own.where(own > 0, 1.0)
        if self.sized:
            shipped = self.weights.source.to(mass.dtype).sum(-2)
            return self._real(mass.flatten()[self.problem.anchors] * (1 + shipped / own))
        return self._real(self._of(Patched(mass[..., None]))[..., 0] / own)

    def entries(self) -> Entries:
        """Return the weights without padding."""
        problem, weights = self.problem, self.weights
        sent = self._real(weights.source.detach().float().mT)  # (anchors, sources)
        each = problem.sources[:, None, :].expand(*problem.anchors.shape, -1)
        hit, rows = sent != 0, self.places[:, None].expand_as(sent)
        return (
            torch.cat([rows[hit], self.places]),
            torch.cat([self._real(each)[hit], self.places]),
            torch.cat([sent[hit], self._real(weights.anchor.detach().float())]),
        )


@dataclass(frozen=True)
class Grouped(Merge):
    """The merge of every group into its head."""

    grouping: Grouping

    @property
    def places(self) -> Tensor:
        """The heads."""
        return self.grouping.head

    def of(self, values: Patched) -> Tensor:
        """Apply the sparse map."""
        flat = values.whole.flatten(0, 1)
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        return torch.sparse.mm(self._map.to(wide.dtype), wide).to(flat.dtype)

    def masses(self, mass: Tensor) -> Tensor:
        """Add up the members' masses."""
        group, place = self._map.indices()
        size = mass.new_zeros(len(self.grouping.head))
        return size.index_add(0, group, mass.flatten()[place])

    def entries(self) -> Entries:
        """Return the entries of the sparse map."""
        group, place = self._map.indices()
        return self.grouping.head[group], place, self._map.values().detach().float()

    @cached_property
    def _map(self) -> Tensor:
        return self.grouping.map.coalesce()


class Rows:
    """Joins what merges have for their anchors, in a tensor that is made once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.parts: list[Tensor] = []
        self._room: Tensor | None = None
        self._filled = 0

    def add(self, rows: Tensor) -> None:
        """Take the rows of one merge; if no others can come, as they lie."""
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


def stage_map(size: int, places: Tensor, entries: Iterable[Entries]) -> Tensor:
    """Return the sparse map over flat places that has these entries; other rows: the identity."""
    others = torch.ones(size, dtype=torch.bool, device=places.device)
    others[places] = False
    same = others.nonzero()[:, 0]
    rows, columns, values = zip(*entries, (same, same, same.new_ones(len(same)).float()))
    index = torch.stack([torch.cat(rows), torch.cat(columns)])
    return sparse_map(index, torch.cat(values), (size, size))
