"""Configs are data: frozen, validated, hashed; a fault is named by its dotted path."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from tokenred.errors import ConfigError, nearest, quoted
from tokenred.texts import LONGEST_NUMBER

Model = TypeVar("Model", bound=BaseModel)
SCHEMA_VERSION = 3
LONGEST_TEXT = 10_000
"""Characters of any text among settings."""


OF_FRAMES = "frame-"
"""How names of cues begin that a caller brings for a frame as a whole."""


def is_of_frames(cue: str) -> bool:
    """Return whether a cue is one of a frame as a whole, not of each of its tokens."""
    return cue == "pooler" or cue.startswith(OF_FRAMES)


TEXT_SIMILARITY = "text-similarity"
"""The cue that comes from the question: product of a token with each of its words at length one."""


def of_tower(needs: Iterable[str]) -> frozenset[str]:
    """Return the cues that do not come from the question."""
    return frozenset(needs) - {TEXT_SIMILARITY}


def reads_question(needs: Iterable[str]) -> bool:
    """Return whether one of the cues comes from the question."""
    return TEXT_SIMILARITY in needs


def _of_tokens(name: str) -> str:
    if is_of_frames(name):
        raise ConfigError(f"'{name}' is a cue of a frame; a cue of its tokens is needed")
    return name


TokenCue = Annotated[str, AfterValidator(_of_tokens)]
"""``features``, or the name of a cue that every token has."""


def _holds_truth(value: object) -> bool:
    return any(isinstance(each, bool) for each in (value if isinstance(value, list) else [value]))


def _takes_truth(annotation: Any) -> bool:
    inner = get_args(annotation)
    return annotation in (bool, Any, True, False) or any(map(_takes_truth, inner))


class FrozenModel(BaseModel):
    """Base of every config: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=LONGEST_TEXT
    )
    added: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after ``SCHEMA_VERSION``: no part of the identity at their default."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that tell this config from others."""
        fields, data = type(self).model_fields, self.model_dump(mode="json")
        return {
            name: _identity_of(getattr(self, name), value)
            for name, value in data.items()
            if name not in self.added or getattr(self, name) != fields[name].default
        }

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, data: Any) -> Any:
        """Refuse ``seed: true``, which pydantic takes for 1."""
        for name in data if isinstance(data, Mapping) else ():
            info = cls.model_fields.get(name)
            if info is not None and _holds_truth(data[name]) and not _takes_truth(info.annotation):
                raise ConfigError(f"expected no true or false, got {quoted(data[name])}", [name])
        return data


def _identity_of(value: Any, data: Any) -> Any:
    """Return what identifies a setting, given what it is in plain data."""
    if isinstance(value, FrozenModel):
        return value.identity()
    if isinstance(value, Mapping):
        named = zip(data, value.values(), strict=True)
        return {name: _identity_of(each, data[name]) for name, each in named}
    if isinstance(value, list | tuple):
        return [_identity_of(each, plain) for each, plain in zip(value, data, strict=True)]
    return data


class StrategyConfig(FrozenModel):
    """Base of a strategy's settings. ``name`` is the registered name; the registry fills it in."""

    name: str = ""


class CostTermConfig(StrategyConfig):
    """Base of a cost term's settings: what has a price has a weight in the sum or product."""

    weight: float = Field(1.0, gt=0, le=1e6, description="factor of this term")


def validate(cls: type[Model], data: object) -> Model:
    """Build ``cls`` from ``data``; the first fault becomes a ConfigError with its dotted path."""
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        raise ConfigError(f"expected a mapping of settings, got {quoted(data)}")
    try:
        return cls.model_validate(dict(data))
    except ValidationError as error:
        raise _first_fault(cls, data, error) from None


def _place(data: object, parts: Iterable[str | int], is_missing: bool) -> list[str | int]:
    """Return the part of a place that a user wrote; pydantic adds members of unions, for one."""
    place: list[str | int] = []
    for part in parts:
        inside = data if isinstance(data, Mapping) else {}
        if isinstance(data, list | tuple):
            inside = dict(enumerate(data))
        if part in inside or is_missing:
            place.append(part)
            data = inside.get(part)
    return place


def _first_fault(
    cls: type[BaseModel], data: Mapping[str, object], error: ValidationError
) -> ConfigError:
    faults = error.errors()  # a misspelt key says more than that the right one is missing
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    place = _place(data, fault["loc"], fault["type"] == "missing")
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return inner.below(place)
    if fault["type"] == "extra_forbidden":
        key = str(place[-1])
        fields = list(cls.model_fields)
        return ConfigError(f"unknown key {quoted(key)}{nearest(key, fields)}", place)
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "this key is required"
    else:
        message = f"{message} (got {quoted(fault['input'])})"
    return ConfigError(message, place)


def nested(cls: type[BaseModel]) -> BeforeValidator:
    """Return the annotation that makes faults inside a nested config carry their path."""
    return BeforeValidator(partial(validate, cls))


_SHARE = re.compile(r"[0-9]*\.?[0-9]*(e-?[0-9]{1,2})?(/[0-9]+)?", re.IGNORECASE)


def fraction(text: str) -> float:
    """Return the number that a text such as ``0.17`` or ``126/729`` means."""
    try:
        if len(text) > LONGEST_NUMBER or not _SHARE.fullmatch(text):
            raise ValueError
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"{quoted(text)} is no share; write 0.17 or 126/729") from None


def canonical_json(data: object) -> str:
    """Return the one JSON text that equal settings share: sorted keys, no spaces, defaults in."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def short_hash(data: object) -> str:
    """Return the first 12 hex digits of the SHA-256 of the canonical JSON of ``data``."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()[:12]
