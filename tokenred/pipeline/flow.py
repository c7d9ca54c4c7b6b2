"""The state of one run: tokens on their way, and what has to be remembered about them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import BudgetError
from tokenred.interfaces import CostTerm, Coupler, takes_forbidden
from tokenred.kernels.pooling import PoolMode, pooled_grid
from tokenred.kernels.similarity import chunks
from tokenred.kernels.sparse import compose, sparse_identity, sparse_map
from tokenred.pipeline.budget import BudgetConfig, frame_quota, unreachable
from tokenred.pipeline.merges import Merge, Rows, stage_map
from tokenred.pipeline.patched import Patched
from tokenred.slots import build
from tokenred.types import Coupling, Segments, TokenGroup, VisualTokens

NATIVE_STRIDE = 2
"""The stride of the pooling in LLaVA's video models."""

FORBIDDEN = 1e6
"""The price of a forbidden pair for a coupler that knows none; finite, so that it meets no NaN."""

Part = Literal["static", "dynamic"]
FEATURES = "features"


@dataclass
class Flow:
    """Mutable state that the stages of one run hand on; never leaves the pipeline.

    ``unflushed`` are the tokens with features and cues that may lack what was merged last: for
    whoever reads anything else of them. All others read ``tokens``, which puts those in place.
    ``mass`` (frames, tokens) counts the tokens averaged into each token. ``keep_value`` says how
    firmly the last stage kept a token. ``pooled`` says that the grid is the LLM's. ``trace`` is the
    sparse map from encoder tokens to the current dense tokens, None while it is the identity.
    ``pinned`` marks tokens that stay whatever later stages do. ``static`` splits the tokens into
    two parts, the static one True; ``decided`` names the parts that a stage has brought to their
    number, and ``split`` counts the tokens that were alive at the split. ``order`` (frames, tokens)
    sorts the output inside a frame before the raster does. ``output`` is what goes to the LLM where
    that is not every living token once, frame by frame.
    """

    unflushed: VisualTokens
    budget: BudgetConfig
    generator: torch.Generator
    tracing: bool
    vanilla_cells: int
    mass: Tensor
    keep_value: Tensor | None = None
    pooled: bool = False
    trace: Tensor | None = None
    pinned: Tensor | None = None
    static: Tensor | None = None
    decided: frozenset[Part] = frozenset()
    split: int = 0
    order: Tensor | None = None
    output: "Output | None" = None
    notes: "Notes" = field(default_factory=lambda: Notes())
    _patches: dict[str, Patched] = field(default_factory=dict)

    @classmethod
    def start(
        cls, tokens: VisualTokens, budget: BudgetConfig, generator: torch.Generator, tracing: bool
    ) -> "Flow":
        """Begin a run."""
        native: PoolMode = tokens.native_pool  # type: ignore[assignment]
        rows, columns = pooled_grid(tokens.grid, native, NATIVE_STRIDE)
        mass = torch.ones(tokens.keep.shape, device=tokens.features.device)
        return cls(tokens, budget, generator, tracing, rows * columns, mass)

    @property
    def tokens(self) -> VisualTokens:
        """The tokens, up to date."""
        return self._flushed(self._patches)

    @property
    def cues(self) -> Mapping[str, Tensor]:
        """The cues, up to date."""
        return self._flushed(name for name in self._patches if name != FEATURES).cues

    def _flushed(self, names: Iterable[str]) -> VisualTokens:
        """Put what was merged in its place in some tensors."""
        patches = {name: self._patches[name] for name in names}
        new = {name: patch.whole for name, patch in patches.items() if patch.pending}
        if new:
            features = new.pop(FEATURES, self.unflushed.features)
            cues = {**self.unflushed.cues, **new}
            self.unflushed = replace(self.unflushed, features=features, cues=cues)
        return self.unflushed

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.unflushed.features.shape[0]

    @property
    def quota(self) -> int:
        """Tokens that one frame may keep."""
        return self.quota_of(1)

    def quota_of(self, frames: int) -> int:
        """Return the tokens that some frames may keep together, rounded once for all of them.

        An exact budget is rounded in each, so that it is the same however they are divided.
        """
        budget, once = self.budget, 1 if self.exact else frames
        cells, ratio = once * self.vanilla_cells, budget.retention_ratio
        return frames // once * frame_quota(cells, ratio, budget.rounding, budget.at_least)

    @property
    def segments(self) -> Segments:
        """Runs of frames that belong together; the whole video if nothing cut it."""
        return self.unflushed.segments or Segments((0, self.frames))

    def open(self, part: Literal["all", "static", "dynamic"] = "all") -> Tensor:
        """Return (frames, tokens): alive, not pinned, and in a part."""
        keep = self.unflushed.keep
        mask = keep if self.pinned is None else keep & ~self.pinned
        if part == "all":
            return mask
        static = torch.zeros_like(mask) if self.static is None else self.static
        return mask & (static if part == "static" else ~static)

    @property
    def target(self) -> int:
        """Tokens that the whole video may keep."""
        return self.frames * self.quota

    @property
    def exact(self) -> bool:
        """Whether the number has to be met exactly."""
        return self.budget.mode == "exact"

    def unreachable(self, bound: Literal["most", "least"], possible: int) -> BudgetError:
        """Return the error to raise when only ``possible`` tokens can be kept."""
        return unreachable(self.target, bound, possible, self.frames, self.vanilla_cells)

    def pin(self, tokens: Tensor) -> None:
        """Keep these tokens for good."""
        self.pinned = tokens if self.pinned is None else self.pinned | tokens

    def in_order(self) -> Tensor:
        """Return the flat places of the surviving tokens, frame by frame."""
        places = self.unflushed.keep.flatten().nonzero()[:, 0]
        if self.order is None:
            return places
        by_order = places[self.order.flatten()[places].argsort(stable=True)]
        return by_order[(by_order // self.unflushed.keep.shape[1]).argsort(stable=True)]

    def order_last(self, tokens: Tensor, rank: Tensor | None = None) -> None:
        """Let these tokens stand behind all others of their frame, by ``rank`` if it is given."""
        if self.order is None:
            self.order = torch.zeros(tokens.shape, dtype=torch.long, device=tokens.device)
        behind = self.order.max() + 1 + (0 if rank is None else rank)
        self.order = torch.where(tokens, behind, self.order)

    def update(self, **changes: object) -> None:
        """Replace fields of the tokens; new features or cues take the place of all merged ones."""
        self.unflushed = replace(self.unflushed, **changes)  # type: ignore[arg-type]
        if "features" in changes:
            self._patches.pop(FEATURES, None)
        if "cues" in changes:
            self._patches = {k: v for k, v in self._patches.items() if k == FEATURES}

    def replace_features(self, features: Tensor, **changes: object) -> None:
        """Replace the features by a tensor that nobody else holds, and other fields."""
        self.update(features=features.contiguous(), **changes)
        self._patches[FEATURES] = Patched(self.unflushed.features, owned=True)

    def rearrange(self, source: Tensor) -> None:
        """Move tokens to other places: what stands at a flat place comes from ``source`` of it."""
        moved = self.tokens.features.flatten(0, 1).index_select(0, source)
        self.replace_features(moved.view_as(self.tokens.features))
        self.mass = self.mass.flatten()[source].view_as(self.mass)
        if self.tracing:
            size = len(source)
            index = torch.stack([torch.arange(size, device=source.device), source])
            ones = torch.ones(size, device=source.device)
            self.extend_trace(sparse_map(index, ones, (size, size)))

    def merge(self, merges: Iterable[Merge], n_anchors: int) -> None:
        """Let tokens take others in; every merge reads what was there before all of them.

        What a token is moves with it: features, the vectors it is compared by (keys and all other
        cues with a vector for each token), its mass and the trace. Merges are taken one by one, so
        that the plans of all of them need not exist at once; they have at most ``n_anchors``
        anchors.
        """
        moving = [name for name in self.unflushed.cues if self._values(name).ndim == 3]
        moved = {name: (self._patch(name), Rows(n_anchors)) for name in (FEATURES, *moving)}
        places, mass, entries = Rows(n_anchors), Rows(n_anchors), []
        for merge in merges:
            places.add(merge.places)
            mass.add(merge.masses(self.mass).detach())
            for patch, rows in moved.values():
                rows.add(merge.of(patch))
            if self.tracing:
                entries.append(merge.entries())
        if not places.parts:
            return
        where = places.all
        for patch, rows in moved.values():
            patch.write(where, rows.all)
        if self.tracing:
            self.extend_trace(stage_map(self.mass.numel(), where, entries))
        self.mass = self.mass.flatten().index_put((where,), mass.all).view_as(self.mass)

    def at(self, places: Tensor, name: str = FEATURES) -> Tensor:
        """Return features, or a cue, at flat places, without a copy of all of them."""
        if name in self._patches:
            return self._patches[name].at(places)
        values = self._values(name).flatten(0, 1)
        return values.index_select(0, places.flatten()).view(*places.shape, *values.shape[1:])

    def by_frames(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``change`` of the features (see ``Patched.by_frames``)."""
        return self._patch(FEATURES).by_frames(change)

    def _values(self, name: str) -> Tensor:
        return self.unflushed.features if name == FEATURES else self.unflushed.cues[name]

    def _patch(self, name: str) -> Patched:
        if name not in self._patches:
            self._patches[name] = Patched(self._values(name))
        return self._patches[name]

    def extend_trace(self, stage_map: Tensor) -> None:
        """Put the sparse map of one stage behind what happened before."""
        self.trace = stage_map if self.trace is None else compose(stage_map, self.trace)

    def note(self, coupling: Coupling) -> None:
        """Remember the solver state of the worst coupling of this stage."""
        if coupling.plan.numel() == 0:
            return
        self.notes.n_iter = max(self.notes.n_iter, coupling.n_iter)
        self.notes.residual = max(self.notes.residual, float(coupling.residual.max()))
        self.notes.converged = self.notes.converged and bool(coupling.converged.all())

    def chunks(self, n_items: int, n_values: int) -> list[slice]:
        """Cut independent problems into chunks that are solved at once, on this device."""
        return chunks(n_items, n_values, self.mass.device)

    def remark(self, text: str) -> None:
        """Add a sentence to the report of this stage."""
        self.notes.remarks = (*self.notes.remarks, text)


@dataclass
class Notes:
    """What the stage at work wants to have reported (see ``StageReport``)."""

    n_iter: int = 0
    residual: float = 0.0
    converged: bool = True
    n_segments: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """Tokens in the order in which the LLM gets them.

    ``place`` are flat places; ``trace`` has a row for each token; ``newline`` marks the model's
    newline tokens where they are among these, each at the place of the token that it closes.
    """

    place: Tensor
    features: Tensor
    mass: Tensor
    trace: Tensor | None
    newline: Tensor | None = None

    @classmethod
    def at(cls, flow: Flow, place: Tensor) -> "Output":
        """Return the tokens at flat places as they are now."""
        trace = flow.trace
        if flow.tracing and trace is None:
            trace = sparse_identity(flow.mass.numel(), flow.mass.device)
        rows = None if trace is None else torch.index_select(trace, 0, place)
        return cls(place, flow.at(place), flow.mass.flatten()[place], rows)

    def of_nothing(self, place: Tensor, features: Tensor) -> "Output":
        """Return tokens at these places that no token of the encoder went into."""
        trace = None
        if self.trace is not None:
            index = place.new_empty(2, 0)
            none = place.new_empty(0, dtype=self.trace.dtype)
            trace = sparse_map(index, none, (len(place), self.trace.shape[1]))
        return Output(place, features, self.mass.new_ones(len(place)), trace)

    def then(self, other: "Output") -> "Output":
        """Return these tokens, and others behind them."""
        return self._each(lambda mine, its: torch.cat([mine, its]), other)

    def reordered(self, order: Tensor, newline: int | None = None) -> "Output":
        """Return the tokens in another order, given by their numbers in this one.

        With ``newline`` those from this number on are newline tokens.
        """
        made = self._each(lambda mine, _: torch.index_select(mine, 0, order), self)
        return made if newline is None else replace(made, newline=order >= newline)

    def _each(self, change: Callable[[Tensor, Tensor], Tensor], other: "Output") -> "Output":
        trace = newline = None
        if self.trace is not None and other.trace is not None:
            trace = change(self.trace, other.trace)
        if self.newline is not None and other.newline is not None:
            newline = change(self.newline, other.newline)
        return Output(
            change(self.place, other.place),
            change(self.features, other.features),
            change(self.mass, other.mass),
            trace,
            newline,
        )


def grid_positions(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return (tokens, 2) row and column of every token, each scaled to [0, 1]."""
    rows = torch.linspace(0, 1, grid[0], device=device)
    columns = torch.linspace(0, 1, grid[1], device=device)
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)


def uniform_mass(real: Tensor) -> Tensor:
    """Return mass 1/n on the real entries of each row and 0 on padding."""
    mass = real.float()
    return mass / mass.sum(-1, keepdim=True).clamp_min(1.0)


class TokenTable:
    """What cost terms may look at, of all tokens of a flow, to be gathered in groups.

    Parameters
    ----------
    needs : cues to gather
    rank : (frames, tokens) to gather as ``TokenGroup.rank``
    """

    def __init__(
        self, flow: Flow, needs: frozenset[str] = frozenset(), rank: Tensor | None = None
    ) -> None:
        frames, n = flow.mass.shape
        device = flow.mass.device
        times = [t - segment[0] for segment in flow.segments for t in segment]
        self._positions = grid_positions(flow.unflushed.grid, device).repeat(frames, 1)
        self._times = torch.tensor(times, dtype=self._positions.dtype, device=device)
        self._flow, self._needs, self._rank, self._n = flow, needs, rank, n

    def __getitem__(self, places: Tensor) -> TokenGroup:
        """Gather the tokens at (*batch, n) flat places, frame * tokens + token."""
        return TokenGroup(
            self._flow.at(places),
            self._positions[places],
            self._times[places // self._n],
            None if self._rank is None else self._rank.flatten()[places],
            {name: self._flow.at(places, name) for name in self._needs},
        )

    def frames(self, which: slice) -> TokenGroup:
        """Return all tokens of some frames, none of which is copied."""
        tokens = self._flow.tokens
        times = self._times[which]
        shape = len(times), self._n
        return TokenGroup(
            tokens.features[which],
            self._positions.view(-1, self._n, 2)[which],
            times[:, None].expand(shape),
            None if self._rank is None else self._rank[which],
            {name: tokens.cues[name][which] for name in self._needs},
        )


class Transport:
    """Cost terms and coupler of a stage: from two token groups to a coupling."""

    def __init__(
        self, terms: Sequence[StrategyConfig], combine: str, coupler: StrategyConfig
    ) -> None:
        self.terms = [
            (term.name, getattr(term, "weight", 1.0), build(CostTerm, term)) for term in terms
        ]
        self.combine = combine
        self.coupler = build(Coupler, coupler)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the cost terms ask for."""
        return frozenset().union(*(term.needs for _, _, term in self.terms))

    @property
    def pairwise(self) -> bool:
        """Whether every price depends on its pair alone, so that tokens without mass may be by."""
        return all(term.pairwise for _, _, term in self.terms)

    @property
    def independent(self) -> bool:
        """Whether no problem of a batch depends on another."""
        return self.coupler.independent

    @property
    def batches(self) -> bool:
        """Whether problems of different sizes may be padded by repeats and solved in one batch."""
        return self.independent and all(term.allows_repeats for _, _, term in self.terms)

    def __call__(
        self,
        sources: TokenGroup,
        anchors: TokenGroup,
        source_mass: Tensor,
        anchor_mass: Tensor,
        forbidden: Tensor | None = None,
    ) -> Coupling:
        """Couple the groups; zero masses mark padding, ``forbidden`` pairs that stay apart."""
        named = {name: term.cost(sources, anchors) for name, _, term in self.terms}
        weighted = [
            named[name] if weight == 1 else weight * named[name] for name, weight, _ in self.terms
        ]
        total = weighted[0]
        for cost in weighted[1:]:
            total = total + cost if self.combine == "sum" else total * cost
        for _, _, term in self.terms:
            apart = term.forbids(sources, anchors)
            if apart is not None:
                forbidden = apart if forbidden is None else forbidden | apart
        if forbidden is None or takes_forbidden(self.coupler):
            more = () if forbidden is None else (forbidden,)
            coupling = self.coupler.couple(total, source_mass, anchor_mass, *more)
        else:
            priced = total.masked_fill(forbidden, FORBIDDEN)
            coupling = self.coupler.couple(priced, source_mass, anchor_mass)
            coupling = replace(coupling, plan=coupling.plan.masked_fill(forbidden, 0.0))
        return replace(coupling, terms=named, forbidden=forbidden)
