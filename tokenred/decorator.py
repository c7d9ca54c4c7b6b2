"""``@tokenred.register("name")``: a strategy known at once, in a notebook or a single file."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import new_class
from typing import Any, TypeVar, get_type_hints

from tokenred import interfaces, plugins
from tokenred.config import CostTermConfig, StrategyConfig
from tokenred.errors import PluginError, nearest
from tokenred.plugin_files import PREFIX, content_hash
from tokenred.registry import HARNESS_ROLES, ROLES, Entry

Class = TypeVar("Class", bound=type)
NOTEBOOK = "notebook"
"""Owner of what is registered where there is no file."""
_texts: dict[str, dict[tuple[str, str], bytes]] = {}
_PROTOCOLS = {"selector": "AnchorSelector", "segmenter": "TemporalSegmenter"}


def register(name: str, role: str | None = None) -> Callable[[Class], Class]:
    """Register the class below under ``name``.

    Its methods say what it is: one with ``couple`` is a coupler. Its settings are the
    ``StrategyConfig`` that annotates the argument of ``__init__``, or a nested ``Config``; without
    either it has none, and needs no ``__init__``. A cell that runs again replaces what it has
    registered before.

    Parameters
    ----------
    role : such as ``"coupler"``, where the methods fit several

    Raises
    ------
    PluginError
        If the class is no strategy, lacks a flag of its role, or the name is somebody else's.
    """

    def decorate(cls: Class) -> Class:
        if plugins.is_loading():
            raise PluginError(
                f"'{name}' belongs to a distribution, which registers with hooks; "
                "@tokenred.register is for notebooks and single files"
            )
        registry, statuses = plugins.loaded()
        what = _role_of(cls, name) if role is None else _checked(role)
        _check_complete(cls, what, name)
        owner, source = _owner_of(cls)
        with registry.all_or_nothing():
            if source is not None:
                registry.forget(owner, (what, name))
            registry.add(Entry(what, name, cls, _config_of(cls, what), owner))
        if source is not None:
            texts = _texts.setdefault(owner, {})
            texts[what, name] = source
            version = content_hash(b"\n".join(sorted(set(texts.values()))))
            statuses[:] = [each for each in statuses if each.distribution != owner]
            statuses.append(plugins.PluginStatus(owner, owner, version))
        return cls

    return decorate


def _protocol(role: str) -> type:
    name = _PROTOCOLS.get(role, role.title().replace(" ", ""))
    return getattr(interfaces, name)


def _methods(role: str) -> list[str]:
    members = vars(_protocol(role)).items()
    return [name for name, value in members if inspect.isfunction(value) and name[0] != "_"]


def _flags(role: str) -> list[str]:
    protocol = _protocol(role)
    properties = [name for name, value in vars(protocol).items() if isinstance(value, property)]
    return [*inspect.get_annotations(protocol), *properties]


def _lacks(cls: type, role: str) -> list[str]:
    return [name for name in _flags(role) if not hasattr(cls, name)]


def _checked(role: str) -> str:
    known = (*ROLES, *HARNESS_ROLES)
    if role not in known:
        raise PluginError(f"unknown role '{role}'{nearest(role, known)}")
    return role


def _role_of(cls: type, name: str) -> str:
    fitting = [
        role for role in ROLES if all(callable(getattr(cls, m, None)) for m in _methods(role))
    ]
    complete = [role for role in fitting if _flags(role) and not _lacks(cls, role)]
    fitting = complete if len(complete) == 1 else fitting
    if not fitting:
        methods = ", ".join(f"{' and '.join(_methods(role))} ({role})" for role in ROLES)
        raise PluginError(
            f"'{name}': {cls.__name__} has the methods of no strategy, which are {methods}"
        )
    if len(fitting) > 1:
        raise PluginError(
            f"'{name}': {cls.__name__} may be a {' or a '.join(fitting)}; "
            f'say which, as in register("{name}", role="{fitting[0]}")'
        )
    return fitting[0]


def _check_complete(cls: type, role: str, name: str) -> None:
    if role in HARNESS_ROLES:
        return
    what = f"{role} '{name}' ({cls.__name__})"
    for method in _methods(role):
        if not callable(getattr(cls, method, None)):
            raise PluginError(f"{what} lacks the method '{method}'")
    for flag in _lacks(cls, role):
        raise PluginError(f"{what} lacks '{flag}', which a {role} must say: {flag} = ...")


def _config_of(cls: Any, role: str) -> Any:
    """Return the class of its settings; without one make it, and an ``__init__`` where it lacks."""
    config = _annotated(cls) or getattr(cls, "Config", None)
    if config is None:
        base = CostTermConfig if role == "cost term" else StrategyConfig
        names = {"__module__": cls.__module__, "__doc__": "No settings."}
        config = cls.Config = new_class(
            "Config", (base,), exec_body=lambda body: body.update(names)
        )
        config.__qualname__ = f"{cls.__qualname__}.Config"  # where pickle looks for it
    if cls.__init__ is object.__init__:

        def __init__(self: Any, config: Any) -> None:
            self.config = config

        cls.__init__ = __init__
    return config


def _annotated(cls: Any) -> Any:
    if cls.__init__ is object.__init__:
        return None
    parameters = list(inspect.signature(cls.__init__).parameters)[1:]
    if not parameters:
        raise PluginError(f"{cls.__name__}.__init__ takes the settings: __init__(self, config)")
    found = get_type_hints(cls.__init__).get(parameters[0])
    return None if found is Any else found


def _owner_of(cls: type) -> tuple[str, bytes | None]:
    """Return the owner of a class, and what it is written in unless the loaded file says that."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:
        return NOTEBOOK, _text_of(cls)
    source = None if cls.__module__.startswith(PREFIX) else Path(file).read_bytes()
    return Path(file).name, source


def _text_of(cls: type) -> bytes:
    texts = []
    for function in filter(inspect.isfunction, vars(cls).values()):
        try:
            texts.append(inspect.getsource(function))
        except OSError:  # typed into a plain interpreter
            texts.append(repr((function.__code__.co_code, function.__code__.co_consts)))
    return "\n".join(texts).encode()
