"""What every strategy shares: a role, settings, and a check of the names that it defines."""

from abc import ABC
from collections.abc import Iterator
from functools import cache
from inspect import get_annotations, isfunction
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from tokenred.config import FrozenModel, StrategyConfig, validate
from tokenred.errors import ConfigError, PluginError, nearest, quoted


class Strategy(ABC):  # noqa: B024, as the roles have the methods
    """What all roles share: a role, settings, and a check of the names that a class defines.

    Parameters
    ----------
    config : settings; those that ``config`` is annotated with, as they come, if None

    Raises
    ------
    PluginError
        When a class is made: if it defines a public name that its role does not have, or gives a
        flag a value that is none of it.
    ConfigError
        If ``config`` is of another class, or some settings have no default.
    """

    role: ClassVar[str] = ""
    if TYPE_CHECKING:
        config: Any  # each strategy says what its own is
    else:
        config: StrategyConfig

    def __init_subclass__(cls, role: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if role:
            cls.role = role
        elif cls.role:
            _check_names(cls)
            _guard(cls)

    def __init__(self, config: FrozenModel | None = None) -> None:
        wanted = type(self).config_class()
        if config is None:
            config = validate(wanted, {})
        if not isinstance(config, wanted):
            raise ConfigError(
                f"{type(self).__name__} has settings of {wanted.__name__}, got {quoted(config)}"
            )
        self.config = config

    @classmethod
    def config_class(cls) -> type[FrozenModel]:
        """Return the class of its settings."""
        owner = next(base for base in cls.__mro__ if "config" in get_annotations(base))
        found = get_annotations(owner)["config"]
        if isinstance(found, str):
            found = get_type_hints(owner)["config"]
        if not (isinstance(found, type) and issubclass(found, FrozenModel)):
            raise PluginError(f"the config of {cls.__name__} is no StrategyConfig: {found}")
        return found

    @classmethod
    def lacks(cls) -> list[str]:
        """Return the methods and flags that it has to define and does not."""
        return sorted(cls.__abstractmethods__)

    def check_flags(self) -> None:
        """Hold every flag against its type; one that depends on settings is known only now.

        Raises
        ------
        PluginError
            If one has another value.
        """
        for name, wanted in _flags(_base(type(self))).items():
            _check_value(type(self).__name__, name, wanted, getattr(self, name))


def _guard(cls: type[Strategy]) -> None:
    """Have the answers of a class checked, wherever they are asked for."""
    from tokenred.promises import PROMISES, guarded  # which imports torch

    for name in PROMISES.get(cls.role, ()):
        method = vars(cls).get(name)
        if isfunction(method) and not getattr(method, "__isabstractmethod__", False):
            setattr(cls, name, guarded(method, cls.role, name))


def _base(cls: type[Strategy]) -> type[Strategy]:
    """Return the base class of a strategy's role."""
    return next(base for base in cls.__mro__ if "role" in vars(base))


@cache
def _flags(base: type[Strategy]) -> dict[str, Any]:
    """Return the types of the flags that a role declares."""
    return {
        name: get_type_hints(value.fget)["return"]
        for name, value in vars(base).items()
        if isinstance(value, property)
    }


def _check_names(cls: type[Strategy]) -> None:
    """Check what a class says that shows before there is a strategy."""
    known = {name for base in cls.__mro__[1:] for name in _public(base)}
    flags = _flags(_base(cls))
    for name in _public(cls):
        if name not in known:
            its = known - {n for n in _public(Strategy) if n != "config"}
            raise PluginError(
                f"{cls.__name__}: a {cls.role} has no '{name}'{nearest(name, its)}; names of "
                "your own begin with an underscore"
            )
        value = vars(cls).get(name)
        if name in flags and isfunction(value):
            raise PluginError(f"{cls.__name__}: '{name}' is a value or a property, not a method")
        if name in flags and name in vars(cls) and not hasattr(value, "__get__"):
            _check_value(cls.__name__, name, flags[name], value)


def _public(cls: type) -> Iterator[str]:
    """Yield the names that a class defines for others, but for constants and classes inside it."""
    for name in {**vars(cls), **get_annotations(cls)}:
        value = vars(cls).get(name)
        if not (name.startswith("_") or name.isupper() or isinstance(value, type)):
            yield name


def _plain(wanted: Any) -> Any:
    """Return what ``isinstance`` takes of a type: ``frozenset`` of ``frozenset[str]``."""
    origin = get_origin(wanted)
    return float | int if wanted is float else wanted if origin in (None, UnionType) else origin


def _check_value(where: str, name: str, wanted: Any, value: object) -> None:
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            options = ", ".join(map(repr, get_args(wanted)))
            raise PluginError(f"{where}: {name} is one of {options}, got {quoted(value)}")
    elif not isinstance(value, _plain(wanted)):
        what = getattr(_plain(wanted), "__name__", str(wanted))
        raise PluginError(f"{where}: {name} is a {what}, got {quoted(value)}")
