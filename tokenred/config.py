"""Configs are data: frozen, validated, hashed; a fault is named by its dotted path."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from tokenred.errors import ConfigError, nearest

Model = TypeVar("Model", bound=BaseModel)
SCHEMA_VERSION = 3


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


def nested(cls: type[BaseModel]) -> BeforeValidator:
    """Return the annotation that makes faults inside a nested config carry their path."""
    return BeforeValidator(partial(validate, cls))


def canonical_json(data: object) -> str:
    """Return the one JSON text that equal settings share: sorted keys, no spaces, defaults in."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def short_hash(data: object) -> str:
    """Return the first 12 hex digits of the SHA-256 of the canonical JSON of ``data``."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:12]
