"""What a strategy is: a small class built from its config, with one method and a capability flag.

Four interfaces name the framework; seven smaller ones serve two or more methods each; four more
work between the layers of the LLM. A strategy is constructed as ``Strategy(config)`` and holds no
other state.

Some class attributes are optional. A cost term may have ``needs``, like a selector, and says
``pairwise = True`` if a price depends on its source and its anchor alone: stages then price tokens
that are none of its sources rather than gather the others, and merge segments of different sizes
side by side. For the latter ``allows_repeats = True`` is enough: a token that comes twice changes
no other price. A method ``forbids(sources, anchors)`` beside ``cost`` returns the pairs that
nothing may go through, as a mask or None. A coupler whose problems do not depend on each other when
they come in one batch needs to say nothing; one where they do says ``independent = False``. A
selector may set ``looks_across_frames = True`` if its answer for one frame depends on others
(without it a stage may hand over some of the frames only), and ``adaptive = True`` if it may choose
fewer tokens than asked for. A segmenter may set ``reads = "tokens"`` and is then given ``(frames,
tokens, dim)`` instead of one descriptor a frame. A coupler that never couples anything says
``couples = False``. An aggregator or grouper whose weights do not sum to one says ``averages =
False``.
"""

from collections.abc import Sequence
from inspect import signature
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.types import (
    CacheState,
    Coupling,
    Grouping,
    LayerReduction,
    LayerState,
    LayerStep,
    MergeWeights,
    Segments,
    TokenGroup,
    VisualTokens,
)

Marginals = Literal["both", "source", "anchor", "none"]


@runtime_checkable
class AnchorSelector(Protocol):
    """Chooses, inside each frame, the tokens that stay."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``select`` reads (see ``VisualTokens.cues``)."""
        ...

    def select(
        self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator
    ) -> Int[Tensor, "frames anchors"] | Bool[Tensor, "frames tokens"]:
        """Return ``n_anchors`` indices a frame among ``tokens.keep``, in any order.

        A method whose count follows from the data returns a ``(frames, tokens)`` bool mask, or
        indices with -1 behind the real ones.
        """
        ...


@runtime_checkable
class Coupler(Protocol):
    """Decides how much of every source goes to every anchor."""

    marginals: ClassVar[Marginals]
    """Which sums of the plan equal the given masses."""

    def couple(
        self,
        cost: Float[Tensor, "*batch sources anchors"],
        source_mass: Float[Tensor, "*batch sources"],
        anchor_mass: Float[Tensor, "*batch anchors"],
        forbidden: Bool[Tensor, "*batch sources anchors"] | None = None,
    ) -> Coupling:
        """Return a coupling. A zero mass marks padding: it neither sends nor receives.

        Nothing goes through a pair in ``forbidden``, even if a source has no other anchor. A
        coupler without this argument sees such pairs at a high price, and what it sends there is
        taken back.
        """
        ...


def takes_forbidden(coupler: Coupler) -> bool:
    """Return whether a coupler can be told which pairs are forbidden."""
    parameters = signature(coupler.couple).parameters.values()
    return any(each.name == "forbidden" or each.kind is each.VAR_POSITIONAL for each in parameters)


@runtime_checkable
class Aggregator(Protocol):
    """Turns a coupling into the linear map that updates the anchors."""

    merges: ClassVar[bool]
    """False when the map is always the identity on the anchors."""

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the weights; the stage applies them."""
        ...


@runtime_checkable
class TemporalSegmenter(Protocol):
    """Cuts the frames into runs that are treated together."""

    static: ClassVar[bool]
    """True when the boundaries follow from the number of frames alone."""

    def segment(
        self,
        descriptors: Float[Tensor, "frames dim"],
        *,
        frame_times: Float[Tensor, "frames"] | None = None,
    ) -> Segments:
        """Return a partition of the frames."""
        ...


@runtime_checkable
class CostTerm(Protocol):
    """One summand or factor of the cost of moving a source to an anchor."""

    def cost(
        self, sources: TokenGroup, anchors: TokenGroup
    ) -> Float[Tensor, "*batch sources anchors"]:
        """Return the unweighted cost of every pair."""
        ...


@runtime_checkable
class KeepScore(Protocol):
    """Says how well a source is represented by the anchors it is coupled to."""

    keep: ClassVar[Literal["low", "high"]]
    """Which end of the score is kept as a token of its own."""

    def score(self, coupling: Coupling) -> Float[Tensor, "*batch sources"]:
        """Return one number for every source."""
        ...


@runtime_checkable
class KeepDecision(Protocol):
    """Decides from the scores which sources stay tokens of their own."""

    exact: ClassVar[bool]
    """True when it keeps exactly the number that the budget leaves."""

    def decide(
        self,
        score: Float[Tensor, "*batch sources"],
        *,
        keep: Literal["low", "high"],
        n_keep: int | None,
    ) -> Bool[Tensor, "*batch sources"]:
        """Return True where the source is kept; ``n_keep`` is the quota when there is one."""
        ...


@runtime_checkable
class FrameReference(Protocol):
    """Says with which earlier frame each frame of a segment is compared."""

    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return a frame of the segment for each; itself: kept whole; None: the frame is lost."""
        ...


@runtime_checkable
class StaticRule(Protocol):
    """Tells the places of a frame that stay the same all through a segment."""

    def static(self, features: Float[Tensor, "frames tokens dim"]) -> Bool[Tensor, "tokens"]:
        """Return True where nothing changes; the segment has two frames or more."""
        ...


@runtime_checkable
class BudgetAllocator(Protocol):
    """Divides the anchors of a stage among the frames."""

    rounding: ClassVar[Literal["nearest", "floor"]]
    """How its numbers become whole ones where the budget need not be met exactly."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``allocate`` reads."""
        ...

    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Float[Tensor, "frames"]:
        """Return how many anchors each frame should get, ``n_anchors`` on average."""
        ...


@runtime_checkable
class TokenGrouper(Protocol):
    """Partitions or blends all tokens of a video at once; how many are left follows from them."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``group`` reads."""
        ...

    def group(self, tokens: VisualTokens, *, generator: torch.Generator) -> Grouping:
        """Return the groups of the tokens in ``tokens.keep``."""
        ...


@runtime_checkable
class TokenRanker(Protocol):
    """Scores visual tokens between two decoder layers."""

    reads: ClassVar[frozenset[str]]
    """What it reads of a state beyond the hidden states (see ``LayerStep.reads``)."""

    def rank(
        self, state: LayerState, candidates: Int[Tensor, "candidates"]
    ) -> Float[Tensor, "candidates"]:
        """Return one score for every candidate, a token of the state; higher stays longer."""
        ...


@runtime_checkable
class AdaptiveRanker(TokenRanker, Protocol):
    """A ranker that also knows how many tokens should stay."""

    def n_kept(self, state: LayerState, candidates: Int[Tensor, "candidates"]) -> int:
        """Return how many of the candidates should stay."""
        ...


@runtime_checkable
class LayerMerger(Protocol):
    """Decides what becomes of the tokens that a ranking drops."""

    makes: ClassVar[bool]
    """True when it makes new tokens, which stand after the visual tokens of their clip."""

    def merge(
        self,
        state: LayerState,
        kept: Int[Tensor, "kept"],
        dropped: Int[Tensor, "dropped"],
        scores: Float[Tensor, "tokens"],
    ) -> tuple[Float[Tensor, "kept dim"], Float[Tensor, "made dim"]]:
        """Return the hidden states of the kept tokens and of new ones.

        ``kept`` comes in the order of the ranking, best first; ``dropped`` in that of the sequence.
        ``scores`` has one entry for each token of the state, minus infinity for those not ranked.
        """
        ...


@runtime_checkable
class LayerReducer(Protocol):
    """Drops or merges visual tokens while the prompt passes through the LLM."""

    def steps(self, n_layers: int) -> Sequence[LayerStep]:
        """Return where it acts in an LLM of ``n_layers``, in order."""
        ...

    def reduce(self, state: LayerState) -> LayerReduction | None:
        """Return what is left of the sequence, or None to leave it as it is."""
        ...


@runtime_checkable
class CachePruner(Protocol):
    """Chooses, at every decoding step, which cached tokens the later layers look at."""

    def layer(self, n_layers: int) -> int:
        """Return the first decoder layer that looks at the chosen tokens only."""
        ...

    def prune(self, state: CacheState) -> Int[Tensor, "kept"] | None:
        """Return the cached tokens to look at, or None for all of them; nothing is lost."""
        ...
