"""What a strategy is: a small class with one method, built from its settings.

Every role has a base class that declares what a strategy of it may say of itself, as properties
with a default: a strategy overrides those that are otherwise for it, ``pairwise = True`` or, where
it depends on the settings, a property. Settings are what annotates ``config``::

    class NearestCoupler(Coupler):
        config: NearestConfig  # left out by a strategy without settings
        marginals = "source"

        def couple(self, cost, source_mass, anchor_mass, forbidden=None): ...

A public name that the role does not have is an error; names of your own begin with an underscore.
Four roles name the framework; seven smaller ones serve two or more methods each; four more work
between the layers of the LLM.
"""

from abc import abstractmethod
from collections.abc import Sequence
from inspect import signature
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.config import CostTermConfig
from tokenred.errors import ConfigError
from tokenred.strategy import Strategy
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


class AnchorSelector(Strategy, role="selector"):
    """Chooses, inside each frame, the tokens that stay."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``select`` reads (see ``VisualTokens.cues``)."""
        return frozenset()

    @property
    def looks_across_frames(self) -> bool:
        """Whether its answer for one frame depends on others; else it may be given some only."""
        return False

    @property
    def adaptive(self) -> bool:
        """Whether it may choose fewer tokens than asked for, as the data say."""
        return False

    @property
    def keeps_at_least(self) -> float:
        """Share of a frame's tokens that it keeps at the least; it cannot be asked for fewer."""
        return 0.0

    @abstractmethod
    def select(
        self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator
    ) -> Int[Tensor, "frames anchors"] | Bool[Tensor, "frames tokens"]:
        """Return ``n_anchors`` indices a frame among ``tokens.keep``, in any order.

        A method whose count follows from the data returns a ``(frames, tokens)`` bool mask, or
        indices with -1 behind the real ones.
        """


class Coupler(Strategy, role="coupler"):
    """Decides how much of every source goes to every anchor."""

    @property
    @abstractmethod
    def marginals(self) -> Marginals:
        """Which sums of the plan equal the given masses."""

    @property
    def couples(self) -> bool:
        """False if nothing is ever sent."""
        return True

    @property
    def independent(self) -> bool:
        """Whether a problem's plan does not depend on what else is in its batch."""
        return True

    @property
    def copies(self) -> bool:
        """Whether a source goes to several anchors, whole to each."""
        return False

    @abstractmethod
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


def takes_forbidden(coupler: Coupler) -> bool:
    """Return whether a coupler can be told which pairs are forbidden."""
    parameters = signature(coupler.couple).parameters.values()
    return any(each.name == "forbidden" or each.kind is each.VAR_POSITIONAL for each in parameters)


class Aggregator(Strategy, role="aggregator"):
    """Turns a coupling into the linear map that updates the anchors."""

    @property
    def merges(self) -> bool:
        """False when the map is always the identity on the anchors."""
        return True

    @property
    def averages(self) -> bool:
        """Whether an anchor's weights sum to one."""
        return True

    @abstractmethod
    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return the weights; the stage applies them."""


class TemporalSegmenter(Strategy, role="segmenter"):
    """Cuts the frames into runs that are treated together."""

    @property
    def static(self) -> bool:
        """Whether the boundaries follow from the number of frames alone."""
        return False

    @property
    def reads(self) -> Literal["frames", "tokens"]:
        """What it is given: one descriptor a frame, or all of its tokens."""
        return "frames"

    @abstractmethod
    def segment(
        self,
        descriptors: Float[Tensor, "frames *rest"],
        *,
        frame_times: Float[Tensor, "frames"] | None = None,
    ) -> Segments:
        """Return a partition of the frames.

        ``descriptors`` are (frames, dim), or (frames, tokens, dim) if it ``reads`` tokens.
        """


class CostTerm(Strategy, role="cost term"):
    """One summand or factor of the cost of moving a source to an anchor."""

    config: CostTermConfig

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that it reads of both sides."""
        return frozenset()

    @property
    def pairwise(self) -> bool:
        """Whether a price depends on its source and its anchor alone.

        Stages then price tokens that are none of its sources rather than gather the others, and
        merge segments of different sizes side by side.
        """
        return False

    @property
    def allows_repeats(self) -> bool:
        """Whether a token that comes twice changes no other price: enough for the segments."""
        return self.pairwise

    @abstractmethod
    def cost(
        self, sources: TokenGroup, anchors: TokenGroup
    ) -> Float[Tensor, "*batch sources anchors"]:
        """Return the unweighted cost of every pair."""

    def forbids(
        self, sources: TokenGroup, anchors: TokenGroup
    ) -> Bool[Tensor, "*batch sources anchors"] | None:
        """Return the pairs that nothing may go through, if there are any."""
        return None


class KeepScore(Strategy, role="keep score"):
    """Says how well a source is represented by the anchors it is coupled to."""

    @property
    @abstractmethod
    def keep(self) -> Literal["low", "high"]:
        """Which end of the score is kept as a token of its own."""

    @abstractmethod
    def score(self, coupling: Coupling) -> Float[Tensor, "*batch sources"]:
        """Return one number for every source."""


class KeepDecision(Strategy, role="keep decision"):
    """Decides from the scores which sources stay tokens of their own."""

    @property
    def exact(self) -> bool:
        """Whether it keeps exactly the number that the budget leaves."""
        return False

    @abstractmethod
    def decide(
        self,
        score: Float[Tensor, "*batch sources"],
        *,
        keep: Literal["low", "high"],
        n_keep: int | None,
    ) -> Bool[Tensor, "*batch sources"]:
        """Return True where the source is kept; ``n_keep`` is the quota when there is one."""


class FrameReference(Strategy, role="frame reference"):
    """Says with which earlier frame each frame of a segment is compared."""

    @property
    def released(self) -> bool:
        """Whether it repeats released code, which may lose frames and refuse some lengths."""
        return False

    @abstractmethod
    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return a frame of the segment for each; itself: kept whole; None: the frame is lost."""


class StaticRule(Strategy, role="static rule"):
    """Tells the places of a frame that stay the same all through a segment."""

    @abstractmethod
    def static(self, features: Float[Tensor, "frames tokens dim"]) -> Bool[Tensor, "tokens"]:
        """Return True where nothing changes; the segment has two frames or more."""


class BudgetAllocator(Strategy, role="budget allocator"):
    """Divides the anchors of a stage among the frames."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``allocate`` reads."""
        return frozenset()

    @property
    def rounding(self) -> Literal["nearest", "floor"]:
        """How its numbers become whole ones where the budget need not be met exactly."""
        return "nearest"

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole already, of a total that it rounds or cuts by itself."""
        return False

    @property
    def divides(self) -> bool:
        """False if every frame gets the same number."""
        return True

    @abstractmethod
    def allocate(self, tokens: VisualTokens, n_anchors: float) -> Float[Tensor, "frames"]:
        """Return how many anchors each frame should get, ``n_anchors`` on average."""


class TokenGrouper(Strategy, role="token grouper"):
    """Partitions or blends all tokens of a video at once; how many are left follows from them."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``group`` reads."""
        return frozenset()

    @property
    def averages(self) -> bool:
        """Whether a group's weights sum to one."""
        return True

    @abstractmethod
    def group(self, tokens: VisualTokens, *, generator: torch.Generator) -> Grouping:
        """Return the groups of the tokens in ``tokens.keep``."""


class TokenRanker(Strategy, role="token ranker"):
    """Scores visual tokens between two decoder layers."""

    @property
    def reads(self) -> frozenset[str]:
        """What it reads of a state beyond the hidden states (see ``LayerStep.reads``)."""
        return frozenset()

    @property
    def counts(self) -> bool:
        """Whether it also knows how many tokens should stay."""
        return False

    @abstractmethod
    def rank(
        self, state: LayerState, candidates: Int[Tensor, "candidates"]
    ) -> Float[Tensor, "candidates"]:
        """Return one score for every candidate, a token of the state; higher stays longer."""

    def n_kept(self, state: LayerState, candidates: Int[Tensor, "candidates"]) -> int:
        """Return how many of the candidates should stay, if it ``counts``."""
        raise ConfigError(f"{type(self).__name__} does not know how many tokens should stay")


class LayerMerger(Strategy, role="layer merger"):
    """Decides what becomes of the tokens that a ranking drops."""

    @property
    def makes(self) -> bool:
        """Whether it makes new tokens, which stand after the visual tokens of their clip."""
        return False

    @property
    def averages(self) -> bool:
        """Whether what it gives are averages of what was there, and not sums, say."""
        return True

    @abstractmethod
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


class LayerReducer(Strategy, role="layer reducer"):
    """Drops or merges visual tokens while the prompt passes through the LLM."""

    @abstractmethod
    def steps(self, n_layers: int) -> Sequence[LayerStep]:
        """Return where it acts in an LLM of ``n_layers``, in order."""

    @abstractmethod
    def reduce(self, state: LayerState) -> LayerReduction | None:
        """Return what is left of the sequence, or None to leave it as it is."""


class CachePruner(Strategy, role="cache pruner"):
    """Chooses, at every decoding step, which cached tokens the later layers look at."""

    @abstractmethod
    def layer(self, n_layers: int) -> int:
        """Return the first decoder layer that looks at the chosen tokens only."""

    @abstractmethod
    def prune(self, state: CacheState) -> Int[Tensor, "kept"] | None:
        """Return the cached tokens to look at, or None for all of them; nothing is lost."""
