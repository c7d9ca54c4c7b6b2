"""The state of one run: tokens on their way, and what has to be remembered about them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from tokenred.config import CostTermConfig, StrategyConfig, build
from tokenred.errors import BudgetError
from tokenred.kernels.pooling import PoolMode, pooled_grid
from tokenred.kernels.similarity import pieces
from tokenred.kernels.sparse import compose
from tokenred.pipeline.budget import BudgetConfig, frame_quota, unreachable
from tokenred.types import Coupling, Segments, TokenGroup, VisualTokens

NATIVE_STRIDE = 2
"""The stride of the pooling in LLaVA's video models."""

FORBIDDEN = 1e6
"""Cost of a pair that must not be coupled; finite, so that no coupler meets NaN."""

Part = Literal["static", "dynamic"]


@dataclass
class Flow:
    """Mutable state that the stages of one run hand on; never leaves the pipeline.

    ``dated`` are the tokens with features that may lack what was written last: for whoever reads
    anything else of them. All others read ``tokens``, which puts the features in place before.
    ``mass`` (frames, tokens) counts the tokens averaged into each token. ``keep_value`` says how
    firmly the last stage kept a token. ``pooled`` says that the grid is the LLM's. ``trace`` is the
    sparse map from encoder tokens to the current dense tokens, None while it is the identity.
    ``settled`` marks tokens that stay whatever later stages do. ``static`` splits the tokens into
    two parts, the static one True; ``decided`` names the parts that a stage has brought to their
    number, and ``split`` counts the tokens that were alive at the split. ``order`` (frames, tokens)
    sorts the output inside a frame before the raster does. ``twins`` holds tokens that are emitted
    a second time, unmerged. ``sequence`` orders the output when that is not by frames.
    """

    dated: VisualTokens
    budget: BudgetConfig
    generator: torch.Generator
    tracing: bool
    vanilla_cells: int
    mass: Tensor
    keep_value: Tensor | None = None
    pooled: bool = False
    trace: Tensor | None = None
    settled: Tensor | None = None
    static: Tensor | None = None
    decided: frozenset[Part] = frozenset()
    split: int = 0
    order: Tensor | None = None
    twins: "Twins | None" = None
    sequence: Tensor | None = None
    notes: "Notes" = field(default_factory=lambda: Notes())
    _own: Tensor | None = None
    _written: tuple[Tensor, Tensor] | None = None

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
        if self._written is not None:
            (places, values), self._written = self._written, None
            own = self.dated.features.clone(memory_format=torch.contiguous_format)
            own.view(-1, own.shape[-1]).index_copy_(0, places, values)
            self.own(own)
        return self.dated

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.dated.features.shape[0]

    @property
    def quota(self) -> int:
        """Tokens that one frame may keep."""
        budget = self.budget
        return frame_quota(self.vanilla_cells, budget.retention_ratio, budget.rounding)

    @property
    def segments(self) -> Segments:
        """Runs of frames that belong together; the whole video if nothing cut it."""
        return self.dated.segments or Segments((0, self.frames))

    def open(self, part: Literal["all", "static", "dynamic"] = "all") -> Tensor:
        """Return (frames, tokens): alive, not settled, and in a part."""
        keep = self.dated.keep
        mask = keep if self.settled is None else keep & ~self.settled
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

    def settle(self, tokens: Tensor) -> None:
        """Keep these tokens for good."""
        self.settled = tokens if self.settled is None else self.settled | tokens

    def put_behind(self, tokens: Tensor, rank: Tensor | None = None) -> None:
        """Let these tokens stand behind all others of their frame, by ``rank`` if it is given."""
        if self.order is None:
            self.order = torch.zeros(tokens.shape, dtype=torch.long, device=tokens.device)
        behind = self.order.max() + 1 + (0 if rank is None else rank)
        self.order = torch.where(tokens, behind, self.order)

    def update(self, **changes: object) -> None:
        """Replace fields of the tokens."""
        self.dated = replace(self.dated, **changes)  # type: ignore[arg-type]

    def write(self, places: Tensor, values: Tensor) -> None:
        """Put new features at flat places; all the features are copied at most once in a run.

        The first call only notes them, for ``tokens``, ``at`` or ``by_frames`` to put in place; the
        copy that ``tokens`` makes is what later calls write into: read before you write.
        """
        features = self.tokens.features
        if torch.is_grad_enabled() and (features.requires_grad or values.requires_grad):
            flat = features.flatten(0, 1).index_put((places,), values)
            self.update(features=flat.view_as(features))
        elif features is self._own:
            features.view(-1, features.shape[-1]).index_copy_(0, places, values)
        else:
            self._written = places, values

    def at(self, places: Tensor) -> Tensor:
        """Return the features at flat places, without a copy of all of them."""
        found = self.dated.features.flatten(0, 1)
        if self._written is None:
            return found.index_select(0, places)
        written, values = self._written
        if torch.equal(places, written):
            return values
        row = torch.full((self.dated.keep.numel(),), -1, device=places.device)
        row[written] = torch.arange(len(written), device=places.device)
        new = (row[places] >= 0).nonzero()[:, 0]
        changed = values.index_select(0, row[places[new]])
        return found.index_select(0, places).index_copy_(0, new, changed)

    def by_frames(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``change`` of the features, frames by frames, without a copy of all of them.

        Parameters
        ----------
        change : (frames, tokens, dim) -> (frames, n, dim), each frame on its own; a new tensor, as
            the one that is given is written over
        """
        if self._written is None:
            return change(self.dated.features)
        (written, values), features = self._written, self.dated.features
        n, room, changed = features.shape[1], None, None
        frame = written // n
        for piece in self.together(len(features), features[:1].numel()):
            part = features[piece]
            if room is None:
                room = torch.empty_like(part, memory_format=torch.contiguous_format)
            now = room[: len(part)].copy_(part)
            here = ((frame >= piece.start) & (frame < piece.stop)).nonzero()[:, 0]
            now.flatten(0, 1).index_copy_(0, written[here] - n * piece.start, values[here])
            new = change(now)
            if changed is None:
                changed = new.new_empty((len(features), *new.shape[1:]))
            changed[piece] = new
        assert changed is not None
        return changed

    def own(self, features: Tensor, **changes: object) -> None:
        """Replace the features by a tensor that nobody else holds, and other fields."""
        self._own, self._written = features.contiguous(), None
        self.update(features=self._own, **changes)

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

    def together(self, n_items: int, n_values: int) -> list[slice]:
        """Cut independent problems into parts that are solved at once.

        All at once, but on a CPU no more than make tensors of about ``CHUNK_BYTES``, or one for
        each thread, where ``n_values`` are in the largest tensor of a problem. What is needed
        beside the result then does not grow with the video.
        """
        if self.mass.device.type != "cpu":
            return [slice(0, n_items)]
        return pieces(n_items, n_values, torch.get_num_threads())

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
class Twins:
    """Tokens emitted twice: their flat place, unmerged features, mass and trace rows."""

    place: Tensor
    features: Tensor
    mass: Tensor
    trace: Tensor | None


def grid_positions(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return (tokens, 2) row and column of every token, each scaled to [0, 1]."""
    rows = torch.linspace(0, 1, grid[0], device=device)
    columns = torch.linspace(0, 1, grid[1], device=device)
    return torch.cartesian_prod(rows, columns).reshape(-1, 2)


def uniform_mass(real: Tensor) -> Tensor:
    """Return mass 1/n on the real entries of each row and 0 on padding."""
    mass = real.float()
    return mass / mass.sum(-1, keepdim=True).clamp_min(1.0)


def items(group: TokenGroup, which: slice) -> TokenGroup:
    """Return some items of a batch."""
    return TokenGroup(
        group.features[which],
        group.positions[which],
        group.times[which],
        None if group.rank is None else group.rank[which],
        {name: cue[which] for name, cue in group.cues.items()},
    )


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
        tokens = flow.tokens
        frames, n = tokens.keep.shape
        device = tokens.features.device
        positions = grid_positions(tokens.grid, device)
        times = [t - segment[0] for segment in flow.segments for t in segment]
        self.all = TokenGroup(
            tokens.features,
            positions.repeat(frames, 1).view(frames, n, 2),
            torch.tensor(times, dtype=positions.dtype, device=device)[:, None].repeat(1, n),
            rank,
            {name: tokens.cues[name] for name in needs},
        )

    def __getitem__(self, places: Tensor) -> TokenGroup:
        """Gather the tokens at (*batch, n) flat places, frame * tokens + token."""
        return self.at(places, self.features(places))

    def features(self, places: Tensor) -> Tensor:
        """Gather the features alone."""
        return self._gather(self.all.features, places)

    def at(self, places: Tensor, features: Tensor) -> TokenGroup:
        """Gather everything but the features, which are (*batch, n, dim)."""
        rank = self.all.rank
        return TokenGroup(
            features,
            self._gather(self.all.positions, places),
            self._gather(self.all.times, places),
            None if rank is None else self._gather(rank, places),
            {name: self._gather(cue, places) for name, cue in self.all.cues.items()},
        )

    def _gather(self, values: Tensor, places: Tensor) -> Tensor:
        flat = values.flatten(0, 1)
        return flat.index_select(0, places.flatten()).view(*places.shape, *flat.shape[1:])


class Transport:
    """Cost terms and coupler of a stage: from two token groups to a coupling."""

    def __init__(
        self, terms: Sequence[CostTermConfig], combine: str, coupler: StrategyConfig
    ) -> None:
        self.terms = [(term.name, term.weight, build("cost term", term)) for term in terms]
        self.combine = combine
        self.coupler = build("coupler", coupler)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the cost terms ask for."""
        needs: set[str] = set()
        for _, _, term in self.terms:
            needs |= getattr(term, "needs", frozenset())
        return frozenset(needs)

    @property
    def pairwise(self) -> bool:
        """Whether every price depends on its pair alone, so that tokens without mass may be by."""
        return all(getattr(term, "pairwise", False) for _, _, term in self.terms)

    @property
    def independent(self) -> bool:
        """Whether no problem of a batch depends on another."""
        return getattr(self.coupler, "independent", True)

    @property
    def batches(self) -> bool:
        """Whether problems of different sizes may be padded by repeats and solved in one batch."""
        repeats = all(
            getattr(term, "pairwise", False) or getattr(term, "allows_repeats", False)
            for _, _, term in self.terms
        )
        return repeats and self.independent

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
        if forbidden is not None:
            total = total.masked_fill(forbidden, FORBIDDEN)
            named = {name: cost.masked_fill(forbidden, FORBIDDEN) for name, cost in named.items()}
        coupling = self.coupler.couple(total, source_mass, anchor_mass)
        if forbidden is not None:
            coupling = replace(coupling, plan=coupling.plan.masked_fill(forbidden, 0.0))
        return replace(coupling, terms=named)
