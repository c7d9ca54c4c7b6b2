"""A place in a config for one strategy of a role.

``coupler: Slot[Coupler]`` accepts ``{name: sinkhorn, epsilon: 0.1}`` or plain ``sinkhorn``; which
config class validates it is looked up in the registry, so a plugin's settings are checked like our
own.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Protocol,
    TypeVar,
    get_args,
    overload,
    runtime_checkable,
)

from pydantic import BaseModel, PydanticUserError, SerializeAsAny
from pydantic.json_schema import models_json_schema
from pydantic_core import core_schema

from tokenred.config import FrozenModel, StrategyConfig, validate
from tokenred.errors import ConfigError, quoted
from tokenred.plugins import registry
from tokenred.registry import ROLES, name_key
from tokenred.strategy import Strategy

Role = TypeVar("Role", bound=Strategy)
_SLOT_MARK = "x-tokenred-role"


@runtime_checkable
class NamedConfig(Protocol):
    """Settings that know under which name their strategy is registered."""

    @property
    def name(self) -> str:
        """The registered name."""
        ...


def strategy_config(role: type[Strategy] | str, data: object) -> Any:
    """Resolve a slot: look the name up among the strategies of a role and validate the rest."""
    role = role if isinstance(role, str) else role.role
    key = name_key(role)
    if isinstance(data, FrozenModel) and getattr(data, "name", None):
        return data
    if isinstance(data, str):
        data = {key: data}
    name = data.get(key) if isinstance(data, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"a {role} is a name or a mapping with a '{key}', got {quoted(data)}")
    try:
        entry = registry().get(role, name)
    except ConfigError as error:
        raise error.below([key]) from None
    return validate(entry.config_class, data)


class _Mark:
    """Validates a field through the registry."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_before_validator_function(
            partial(strategy_config, self.role), handler(source)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {_SLOT_MARK: self.role}  # slots nest without end, so json_schemas links them


if TYPE_CHECKING:

    class Slot(StrategyConfig, Generic[Role]):
        """A field that holds the settings of one strategy of a role."""

else:

    class Slot:
        """A field that holds the settings of one strategy of a role."""

        def __class_getitem__(cls, role: type[Strategy]) -> Any:
            return Annotated[SerializeAsAny[FrozenModel], _Mark(role.role)]


def slot_role(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return the role of a field that holds one strategy, or several; nothing if it is no slot."""
    for each in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(each, _Mark):
            return each.role
    return next(filter(None, map(slot_role, get_args(annotation))), "")


def parts(config: BaseModel) -> Iterator[tuple[str, Any]]:
    """Yield (role, settings) of every strategy in a config, each before those inside it."""
    for name, info in type(config).model_fields.items():
        value, role = getattr(config, name), slot_role(info.annotation, info.metadata)
        held = tuple(value.values()) if isinstance(value, Mapping) else value
        for each in held if isinstance(held, tuple) else (held,):
            if role and isinstance(each, FrozenModel):
                yield role, each
            if isinstance(each, BaseModel):
                yield from parts(each)


def json_schemas(
    classes: Iterable[type[BaseModel]], roles: Iterable[str] = ROLES
) -> tuple[dict[type[BaseModel], dict[str, Any]], dict[str, Any]]:
    """Return a reference to the JSON schema of each class, and the definitions they refer to.

    A slot refers to the definition of its role: any registered name, or a mapping that matches the
    config of that name.

    Parameters
    ----------
    roles : that slots of these classes can have
    """
    classes, roles = list(classes), list(roles)
    entries = [entry for role in roles for entry in registry().entries(role)]
    wanted = dict.fromkeys([*classes, *(entry.config_class for entry in entries)])
    try:
        references, root = models_json_schema([(cls, "validation") for cls in wanted])
    except PydanticUserError:  # a stranger's field; its settings are left open
        described = [cls for cls in wanted if _has_schema(cls)]
        references, root = models_json_schema([(cls, "validation") for cls in described])
        references |= {(cls, "validation"): {} for cls in wanted if cls not in described}
    definitions = root["$defs"]
    for role in roles:
        options = [
            {
                "title": f"{role} {entry.name}",
                **references[entry.config_class, "validation"],
                "properties": {name_key(role): {"const": entry.name}},
                "required": [name_key(role)],
            }
            for entry in registry().entries(role)
        ]
        definitions[_key(role)] = {"anyOf": [{"enum": registry().names(role)}, *options]}
    return {cls: references[cls, "validation"] for cls in classes}, _linked(definitions)


def file_schema(top: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a kind of file, with what it refers to."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **top, "$defs": dict(definitions)}


def _has_schema(cls: type[BaseModel]) -> bool:
    """Return whether JSON schema can state a config."""
    try:
        cls.model_json_schema()
    except PydanticUserError:
        return False
    return True


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


@overload
def build(role: type[Role], config: NamedConfig) -> Role: ...
@overload
def build(role: str, config: NamedConfig) -> Any: ...
def build(role: type[Strategy] | str, config: NamedConfig) -> Any:
    """Construct the strategy of a role, given by its base class or name, that is configured."""
    role = role if isinstance(role, str) else role.role
    made = registry().get(role, config.name).factory(config)
    made.check_flags()
    return made
