"""What a stage is: a step of a pipeline that owns the invariants; strategies own the maths."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from tokenred.config import FrozenModel
from tokenred.errors import ConfigError
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.flow import Flow
from tokenred.strategy import Strategy

Decides = Literal["nothing", "exact", "adaptive"]


class StageConfig(FrozenModel):
    """Base of a stage's settings. ``kind`` is the registered name; the registry fills it in."""

    kind: str = ""

    @property
    def name(self) -> str:
        """The registered name, as other settings call it."""
        return self.kind


class Stage(Strategy, role="stage"):
    """One step of a pipeline: before the LLM, or inside it."""

    config: StageConfig

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that ``run`` reads (see ``VisualTokens.cues``)."""
        return frozenset()

    @property
    def decides(self) -> Decides:
        """How many tokens stay: all, what an exact budget leaves, or what data and settings say."""
        return "nothing"

    @property
    def pools(self) -> bool:
        """Whether it brings the tokens to the grid of the LLM."""
        return False

    @property
    def splits(self) -> bool:
        """Whether it splits the tokens into the parts ``static`` and ``dynamic``."""
        return False

    @property
    def leaves_grid(self) -> bool:
        """Whether a pool stage may follow: all that it keeps are anchors in their places."""
        return False

    @property
    def own_sequence(self) -> bool:
        """Whether it writes down itself what the LLM reads, in any order, tokens maybe twice."""
        return False

    @property
    def inside(self) -> LayerReducer | CachePruner | None:
        """What acts inside the LLM; such a stage has no ``run``."""
        return None

    def check(
        self, before: Sequence["Stage"], after: Sequence["Stage"], budget: BudgetConfig
    ) -> None:
        """Check that it can stand between other stages (before the LLM), under this budget.

        Raises
        ------
        ConfigError
            With the path of the setting that is wrong, if it cannot.
        """

    def cannot_decide(self) -> str:
        """Return what to do about an exact budget where this stage is the last that decides."""
        return (
            "an exact budget needs a last stage that counts: n_anchors: budget after pooling, or "
            "keep: count on the pool stage, or a segment stage with keep.decide: count"
        )

    @abstractmethod
    def run(self, flow: Flow) -> None:
        """Reduce the tokens on their way."""

    def _check_only(self, others: Sequence["Stage"]) -> None:
        if any(type(self) in (type(each), *type(each).__mro__) for each in others):
            raise ConfigError(f"at most one {self.config.kind} stage")
