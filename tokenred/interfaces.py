"""What a strategy is: a small class built from its config, with one method and a capability flag.

Four interfaces name the framework; three smaller ones serve two or more methods each; four more
work between the layers of the LLM. A strategy is constructed as ``Strategy(config)`` and holds no
other state.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.types import (
    CacheState,
    Coupling,
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

        A method whose count follows from the data returns a ``(frames, tokens)`` bool mask.
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
    ) -> Coupling:
        """Return a coupling. A zero mass marks padding: it neither sends nor receives."""
        ...


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
