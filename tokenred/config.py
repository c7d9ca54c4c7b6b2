"""Configs are data: frozen, validated, hashed; a fault is named by its dotted path.

A strategy slot accepts ``{name: sinkhorn, epsilon: 0.1}`` or plain ``sinkhorn``; which config class
validates it is looked up in the registry, so a plugin's settings are checked like our own.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
)
from pydantic.json_schema import models_json_schema
from pydantic_core import core_schema

from tokenred.errors import ConfigError, nearest
from tokenred.registry import ROLES, registry

Model = TypeVar("Model", bound=BaseModel)
SCHEMA_VERSION = 2
_SLOT_MARK = "x-tokenred-role"


class FrozenModel(BaseModel):
    """Base of every config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StrategyConfig(FrozenModel):
    """Base of a strategy's settings. ``name`` is the registered name; the registry fills it in."""

    name: str = ""


class CostTermConfig(StrategyConfig):
    """Base of a cost term's settings: what has a price has a weight in the sum or product."""

    weight: float = Field(1.0, gt=0, description="factor of this term")


def validate(cls: type[Model], data: object) -> Model:
    """Build ``cls`` from ``data``; the first fault becomes a ConfigError with its dotted path."""
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"expected a mapping of settings, got {data!r}")
    try:
        return cls.model_validate(dict(data))
    except ValidationError as error:
        raise _first_fault(cls, error) from None


def _first_fault(cls: type[BaseModel], error: ValidationError) -> ConfigError:
    fault = error.errors()[0]
    # Pydantic puts the member of a union that it tried last into the place; no user wrote that.
    place = [part for part in fault["loc"] if part not in ("int", "float", "str", "bool")]
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return inner.below(place)
    if fault["type"] == "extra_forbidden":
        key = str(place[-1])
        fields = list(cls.model_fields)
        return ConfigError(f"unknown key '{key}'{nearest(key, fields)}", place)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "this key is required"
    else:
        message = f"{message} (got {fault['input']!r})"
    return ConfigError(message, place)


def strategy_config(role: str, data: object) -> StrategyConfig:
    """Resolve a slot: look the name up among the strategies of ``role`` and validate the rest."""
    if isinstance(data, StrategyConfig) and data.name:
        return data
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise ConfigError(f"a {role} is a name or a mapping with a 'name', got {data!r}")
    try:
        entry = registry().get(role, data["name"])
    except ConfigError as error:
        raise error.below(["name"]) from None
    return validate(entry.config_class, data)


class Slot:
    """Marks a field that holds one strategy of ``role`` and validates it through the registry."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_before_validator_function(
            partial(strategy_config, self.role), handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {_SLOT_MARK: self.role}  # slots nest without end, so json_schemas links them


SelectorSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("selector")]
CouplerSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("coupler")]
AggregatorSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("aggregator")]
SegmenterSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("segmenter")]
CostTermSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("cost term")]
KeepScoreSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("keep score")]
KeepDecisionSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("keep decision")]
FrameReferenceSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("frame reference")]
StaticRuleSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("static rule")]
BudgetAllocatorSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("budget allocator")]
TokenGrouperSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("token grouper")]
TokenRankerSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("token ranker")]
LayerMergerSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("layer merger")]
LayerReducerSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("layer reducer")]
CachePrunerSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("cache pruner")]
ScorerSlot = Annotated[SerializeAsAny[StrategyConfig], Slot("scorer")]


def role_of(metadata: list[Any]) -> str | None:
    """Return the role that a pydantic field's metadata declares, if it is a slot."""
    return next((item.role for item in metadata if isinstance(item, Slot)), None)


def json_schemas(
    classes: Iterable[type[BaseModel]],
) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """Return a reference to the JSON schema of each class, and the definitions they refer to.

    A slot refers to the definition of its role: any registered name, or a mapping that matches the
    config of that name.
    """
    classes, entries = list(classes), registry().entries()
    wanted = dict.fromkeys([*classes, *(entry.config_class for entry in entries)])
    references, root = models_json_schema([(cls, "validation") for cls in wanted])
    definitions = root["$defs"]
    for role in ROLES:
        options = [
            {
                "title": f"{role} {entry.name}",
                **references[entry.config_class, "validation"],
                "properties": {"name": {"const": entry.name}},
                "required": ["name"],
            }
            for entry in registry().entries(role)
        ]
        definitions[_key(role)] = {"anyOf": [{"enum": registry().names(role)}, *options]}
    return {cls: references[cls, "validation"] for cls in classes}, _linked(definitions)


def _linked(node: Any) -> Any:
    if isinstance(node, list):
        return [_linked(item) for item in node]
    if not isinstance(node, dict):
        return node
    linked = {key: _linked(value) for key, value in node.items() if key != _SLOT_MARK}
    if _SLOT_MARK in node:
        linked["$ref"] = f"#/$defs/{_key(node[_SLOT_MARK])}"
    return linked


def _key(role: str) -> str:
    return role.replace(" ", "-")


def nested(cls: type[BaseModel]) -> BeforeValidator:
    """Return the annotation that makes faults inside a nested config carry their path."""
    return BeforeValidator(partial(validate, cls))


def build(role: str, config: StrategyConfig) -> Any:
    """Construct the strategy that ``config`` describes."""
    return registry().get(role, config.name).factory(config)


def canonical_json(data: object) -> str:
    """Return the one JSON text that equal settings share: sorted keys, no spaces, defaults in."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def short_hash(data: object) -> str:
    """Return the first 12 hex digits of the SHA-256 of the canonical JSON of ``data``."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:12]
