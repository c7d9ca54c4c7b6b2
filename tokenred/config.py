"""Configs are data: frozen, validated, hashed; a fault is named by its dotted path.

A strategy slot accepts ``{name: sinkhorn, epsilon: 0.1}`` or plain ``sinkhorn``; which config class
validates it is looked up in the registry, so a plugin's settings are checked like our own.
"""

import hashlib
import json
from collections.abc import Mapping
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

from tokenred.errors import ConfigError, nearest
from tokenred.registry import Entry, registry

Model = TypeVar("Model", bound=BaseModel)
SCHEMA_VERSION = 1


class FrozenModel(BaseModel):
    """Base of every config: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StrategyConfig(FrozenModel):
    """Base of a strategy's settings. ``name`` is the registered name; the registry fills it in."""

    name: str = ""


class CostTermConfig(StrategyConfig):
    """Base of a cost term's settings: every term has a weight in the sum or product."""

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
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return inner.below(fault["loc"])
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        fields = [name for name in cls.model_fields]
        return ConfigError(f"unknown key '{key}'{nearest(key, fields)}", fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "this key is required"
    else:
        message = f"{message} (got {fault['input']!r})"
    return ConfigError(message, fault["loc"])


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


class _Slot:
    """Marks a field as a strategy slot, so that tools can find out which role it takes."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> dict[str, Any]:
        return role_schema(self.role)


def slot(role: str) -> Any:
    """Return the annotation of a field that holds one strategy of ``role``."""
    return Annotated[
        SerializeAsAny[StrategyConfig], BeforeValidator(partial(strategy_config, role)), _Slot(role)
    ]


def role_of(metadata: list[Any]) -> str | None:
    """Return the role that a pydantic field's metadata declares, if it is a slot."""
    return next((item.role for item in metadata if isinstance(item, _Slot)), None)


def role_schema(role: str) -> dict[str, Any]:
    """JSON schema of a slot: any registered name, or a mapping that matches its config."""
    entries = registry().entries(role)
    names = [entry.name for entry in entries]
    return {"anyOf": [{"enum": names}, *(_entry_schema(entry) for entry in entries)]}


def _entry_schema(entry: Entry) -> dict[str, Any]:
    schema = entry.config_class.model_json_schema()
    schema["properties"]["name"] = {"const": entry.name}
    schema["required"] = sorted({"name", *schema.get("required", [])})
    schema["title"] = f"{entry.role} {entry.name}"
    return schema


def nested(cls: type[Model]) -> Any:
    """Return the annotation of a field that holds one plain config of class ``cls``."""
    return Annotated[cls, BeforeValidator(partial(validate, cls))]


def build(role: str, config: StrategyConfig) -> Any:
    """Construct the strategy that ``config`` describes."""
    return registry().get(role, config.name).factory(config)


def canonical_json(data: object) -> str:
    """Return the one JSON text that equal settings share: sorted keys, no spaces, defaults in."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def short_hash(data: object) -> str:
    """Return the first 12 hex digits of the SHA-256 of the canonical JSON of ``data``."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:12]


def set_path(data: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of ``data`` with the dotted ``path`` set; a scalar on the way is an error."""
    head, _, rest = path.partition(".")
    if not head:
        raise ConfigError("an empty part in a dotted path", [path])
    copy = dict(data)
    if not rest:
        copy[head] = value
        return copy
    below = copy.get(head, {})
    if isinstance(below, list):
        copy[head] = _set_item(below, rest, value, head)
    elif isinstance(below, str):  # a strategy written in its short form
        copy[head] = set_path({"name": below}, rest, value)
    elif isinstance(below, Mapping):
        copy[head] = set_path(below, rest, value)
    else:
        raise ConfigError(f"cannot set '{rest}' inside {below!r}", [head])
    return copy


def _set_item(items: list[Any], rest: str, value: object, head: str) -> list[Any]:
    index, _, tail = rest.partition(".")
    if not index.isdigit() or int(index) >= len(items):
        raise ConfigError(f"a list of {len(items)} has no item '{index}'", [head])
    copy = list(items)
    item = copy[int(index)]
    item = {"name": item} if isinstance(item, str) else item
    copy[int(index)] = set_path(item, tail, value) if tail else value
    return copy
