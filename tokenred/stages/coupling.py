"""What stages share that couple tokens, and those that decide by a keep rule which of them stay."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tokenred.config import FrozenModel, StrategyConfig, nested
from tokenred.errors import ConfigError
from tokenred.interfaces import Aggregator, CostTerm, Coupler, KeepDecision, KeepScore
from tokenred.pipeline.flow import Transport
from tokenred.pipeline.stage import Decides, Stage, StageConfig
from tokenred.slots import Slot, build


class CouplingStageConfig(StageConfig):
    """Cost, coupler, aggregator."""

    cost: tuple[Slot[CostTerm], ...] = Field(
        ("cosine",), validate_default=True, description="cost terms of moving a source to an anchor"
    )
    combine: Literal["sum", "product"] = Field("sum", description="how cost terms are combined")
    coupler: Slot[Coupler] = Field(
        "none", validate_default=True, description="how much of a source goes to which anchor"
    )
    aggregator: Slot[Aggregator] = Field(
        "keep-only", validate_default=True, description="how anchors take in what they are sent"
    )

    @field_validator("cost")
    @classmethod
    def _distinct(cls, terms: tuple[StrategyConfig, ...]) -> tuple[StrategyConfig, ...]:
        names = [term.name for term in terms]
        if not names or len(set(names)) != len(names):
            raise ConfigError("a cost is one or more different terms")
        return terms


class CouplingStage(Stage):
    """A stage that couples tokens."""

    config: CouplingStageConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transport = Transport(config.cost, config.combine, config.coupler)
        self.aggregator = build(Aggregator, config.aggregator)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the cost terms ask for."""
        return self.transport.needs


class KeepRuleConfig(FrozenModel):
    """Which tokens of later frames stay tokens of their own."""

    score: Slot[KeepScore] = Field(
        "max-probability", validate_default=True, description="how well the anchors stand for it"
    )
    decide: Slot[KeepDecision] = Field(
        "count", validate_default=True, description="how many, or beyond which score"
    )


class KeepRuleStageConfig(CouplingStageConfig):
    """The same, and a keep rule."""

    keep: Annotated[KeepRuleConfig, nested(KeepRuleConfig)] = Field(
        default_factory=lambda: KeepRuleConfig(),
        description="which sources stay tokens of their own",
    )


class KeepRuleStage(CouplingStage):
    """A stage where a keep rule decides."""

    config: KeepRuleStageConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.score = build(KeepScore, config.keep.score)
        self.decision = build(KeepDecision, config.keep.decide)

    @property
    def decides(self) -> Decides:
        """As the keep decision says of itself."""
        return "exact" if self.decision.exact else "adaptive"

    def cannot_decide(self) -> str:
        """Return which decisions count."""
        return "an exact budget needs keep.decide: count here, or budget.mode: as-released"
