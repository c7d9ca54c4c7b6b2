"""A pipeline as data: a YAML file with a budget and named stages, in order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from tokenred.config import SCHEMA_VERSION, FrozenModel, nested, short_hash, validate
from tokenred.errors import LONGEST_NAME, ConfigError, quoted
from tokenred.files import is_table, located, own_changes, read_pipeline, set_path
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.stage import Stage
from tokenred.slots import NamedConfig, Slot, build, file_schema, json_schemas

RETENTION = "budget.retention_ratio"


class About(FrozenModel):
    """What a reader should know about a pipeline; not part of its identity."""

    summary: str = Field("", description="one sentence")
    method: str = Field("", description="the published method, as its authors write it")
    paper: str = Field("", description="where it was published")
    citation: str = Field("", description="authors, title, venue, year")
    licence: str = Field("", description="of the released code")
    source: str = Field("", description="paper and code it comes from")
    fidelity: str = Field("", description="what was checked against the source, and how")
    golden: tuple[str, ...] = Field((), description="golden algorithms that the parts pass")
    differs: tuple[str, ...] = Field((), description="what differs from the paper or its release")
    assumed: tuple[str, ...] = Field((), description="what the source leaves open, and our choice")


class PipelineConfig(FrozenModel):
    """A complete pipeline."""

    name: str = Field(
        "unnamed",
        max_length=LONGEST_NAME,
        description="what tables call it; not part of its identity",
    )
    about: Annotated[About, nested(About)] = Field(About(), description="for readers")
    budget: Annotated[BudgetConfig, nested(BudgetConfig)] = Field(
        BudgetConfig(), description="how many tokens may be kept"
    )
    stages: dict[str, Slot[Stage]] = Field(
        description="label -> stage, in order; null removes a stage"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of everything random")
    _is_budget_asked: bool = PrivateAttr(default=False)

    @field_validator("stages", mode="before")
    @classmethod
    def _stages(cls, stages: object) -> dict[str, Any]:
        if not isinstance(stages, Mapping):
            raise ConfigError(f"expected a mapping of stages, got {quoted(stages)}")
        return {str(label): stage for label, stage in stages.items() if stage is not None}

    @model_validator(mode="after")
    def _budget_is_decidable(self) -> "PipelineConfig":
        stages = build_stages(self.stages)
        _check_order(stages, self.budget)
        _check_budget(self.budget, stages)
        return self

    def canonical(self) -> dict[str, Any]:
        """Return what identifies the pipeline: schema, budget, stages in order, seed."""
        return {
            "schema": SCHEMA_VERSION,
            "budget": self.budget.identity(),
            "stages": [[label, s.identity()] for label, s in self.stages.items()],
            "seed": self.seed,
        }

    @property
    def is_budget_asked(self) -> bool:
        """Whether the retention ratio was set on what a file or preset says."""
        return self._is_budget_asked

    @property
    def config_id(self) -> str:
        """Return 12 hex digits that equal pipelines share, whatever they are called."""
        return short_hash(self.canonical())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that loads to an equal config."""
        data = self.model_dump(mode="json", exclude={"stages"})
        data["stages"] = {
            label: stage.model_dump(mode="json") for label, stage in self.stages.items()
        }
        return data


def build_stages(configs: Mapping[str, NamedConfig]) -> dict[str, Stage]:
    """Construct the stages that are configured, by their labels."""
    found = {}
    for label, config in configs.items():
        try:
            found[label] = build(Stage, config)
        except ConfigError as error:
            raise error.below(["stages", label]) from None
    return found


def _check_order(stages: Mapping[str, Stage], budget: BudgetConfig) -> None:
    outside = {label: stage for label, stage in stages.items() if stage.inside is None}
    if list(stages)[: len(outside)] != list(outside):
        raise ConfigError("stages inside the LLM come after all others", ["stages"])
    in_order = list(outside.values())
    for place, (label, stage) in enumerate(outside.items()):
        try:
            stage.check(in_order[:place], in_order[place + 1 :], budget)
        except ConfigError as error:
            raise error.below(["stages", label]) from None


def _check_budget(budget: BudgetConfig, stages: Mapping[str, Stage]) -> None:
    calibrated = budget.mode == "calibrated"
    if calibrated and (budget.knob is None or budget.knob_range is None):
        raise ConfigError("mode 'calibrated' needs a knob and a knob_range", ["budget"])
    if not calibrated and (budget.knob is not None or budget.knob_range is not None):
        raise ConfigError("a knob is for mode 'calibrated' only", ["budget", "knob"])
    if budget.rounding != "ceil" and budget.mode != "as-released":
        raise ConfigError(
            f"'{budget.rounding}' is for mode 'as-released': budgets are compared rounded up",
            ["budget", "rounding"],
        )
    if budget.at_least != 1 and budget.mode != "as-released":
        raise ConfigError(
            f"at_least: {budget.at_least} is for mode 'as-released': budgets are compared with one "
            "token a frame at least",
            ["budget", "at_least"],
        )
    if budget.mode != "exact":
        return
    pooled_later = False
    for label, stage in reversed(list(stages.items())):
        if stage.decides != "nothing":
            if stage.decides != "exact" or pooled_later:
                raise ConfigError(stage.cannot_decide(), ["stages", label])
            return
        pooled_later = pooled_later or stage.pools
    if budget.retention_ratio < 1:
        raise ConfigError(
            "no stage drops tokens, so retention_ratio must be 1", ["budget", "retention_ratio"]
        )


def load_config(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> PipelineConfig:
    """Load and validate a pipeline, with dotted paths overridden (``{"budget.mode": ...}``).

    A file may say ``by_retention: {0.10: {path: value}, ...}`` where its authors tie settings to
    the budget: those of the nearest retention ratio apply, before the overrides.
    """
    data = read_pipeline(source)
    try:
        config = _validated(data, overrides or {})
    except ConfigError as error:
        raise located(error, source, overrides) from None
    config._is_budget_asked = RETENTION in {**own_changes(source), **(overrides or {})}
    return config


def _validated(data: dict[str, Any], overrides: Mapping[str, Any]) -> PipelineConfig:
    tied = data.pop("by_retention", None)
    changed = _overridden(data, overrides)
    if tied is not None:
        nearest_to = _retention(changed)
        table = _by_retention(tied)
        key = min(table, key=lambda ratio: (abs(ratio - nearest_to), ratio))
        changed = _overridden(_overridden(data, table[key]), overrides)
    return validate(PipelineConfig, changed)


def _overridden(data: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    for path, value in overrides.items():
        head, stages = str(path).partition(".")[0], data.get("stages")
        is_stage = isinstance(stages, Mapping) and head in stages
        if is_stage and head not in PipelineConfig.model_fields:
            path = f"stages.{path}"  # a stage may be named without the prefix
        data = set_path(data, path, value)
    return data


def _retention(data: Mapping[str, Any]) -> float:
    try:
        return validate(BudgetConfig, data.get("budget") or {}).retention_ratio
    except ConfigError as error:
        raise error.below(["budget"]) from None


def _by_retention(tied: object) -> dict[float, Mapping[str, Any]]:
    table = dict(tied) if isinstance(tied, Mapping) else {}
    pairs = (isinstance(k, int | float) and 0 < k <= 1 and is_table(v) for k, v in table.items())
    if not table or not all(pairs):
        raise ConfigError("expected retention ratios, each with paths and values", ["by_retention"])
    return table


def pipeline_schema() -> dict[str, Any]:
    """Return the JSON schema of a pipeline file, for editors."""
    references, definitions = json_schemas([PipelineConfig])
    pipeline = definitions.pop(references[PipelineConfig]["$ref"].rpartition("/")[2])
    stages = pipeline["properties"]["stages"]
    stages["additionalProperties"] = {"anyOf": [{"type": "null"}, stages["additionalProperties"]]}
    pipeline["properties"]["extends"] = {
        "type": "string",
        "description": "preset or YAML file to start from",
    }
    pipeline["properties"]["by_retention"] = {
        "type": "object",
        "description": "retention ratio -> dotted path -> value, applied at the nearest ratio",
    }
    pipeline["properties"]["set"] = {
        "type": "object",
        "description": "dotted path -> value, changes to what is extended",
    }
    del pipeline["required"]
    pipeline["anyOf"] = [{"required": ["stages"]}, {"required": ["extends"]}]
    return file_schema(pipeline, definitions)
