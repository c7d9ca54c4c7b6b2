"""What a strategy is: a small class built from its config, with one method and a capability flag.

Four interfaces name the framework; three smaller ones serve two or more methods each. A strategy is
constructed as ``Strategy(config)`` and holds no other state.
"""

from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.types import Coupling, MergeWeights, Segments, TokenGroup, VisualTokens

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
