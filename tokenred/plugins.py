"""Finds plugins and lets them register. Built-ins come through the same door as strangers."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import pluggy

from tokenred import hookspecs
from tokenred.errors import PluginError, TokenredError, nearest, quoted, told
from tokenred.registry import (
    ALL_ROLES,
    FILES,
    STRATEGIES_HOOK,
    TARGETS,
    Entry,
    Registry,
    hook_of,
    plural,
    role_of,
)

BUILTIN = (
    "tokenred.stages",
    "tokenred.strategies",
    "tokenred.families",
    "tokenred.evaluation.builtin",
    "tokenred.verbs",
)
ENTRY_POINT_GROUP = "tokenred"
SWITCH = "TOKENRED_LOAD_PLUGINS"
"""Set this environment variable to ``0`` and no third-party plugin is loaded."""


_loading: list[bool] = []


@dataclass(frozen=True)
class PluginStatus:
    """One plugin as found: where it comes from, and why it did not load, if it did not.

    ``file`` is set if it is a single file; its version is then a hash of what the file holds.
    """

    name: str
    distribution: str
    version: str
    error: str | None = None
    file: str = ""


def load_registry(third_party: bool | None = None) -> tuple[Registry, list[PluginStatus]]:
    """Build a registry from scratch.

    ``third_party=None`` follows the environment switch. A plugin that fails to import, misspells a
    hook or collides with a name is reported in the second value and leaves nothing behind.
    """
    if third_party is None:
        third_party = os.environ.get(SWITCH, "1") != "0"
    registry = Registry()
    for module in BUILTIN:
        register_plugin(registry, import_module(module), "tokenred")
    statuses: list[PluginStatus] = []
    _loading.append(True)
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP)) if third_party else []:
        dist = point.dist
        owner = dist.name if dist else point.name
        try:
            register_plugin(registry, point.load(), owner)
            error = None
        except TokenredError as failure:
            error = str(failure)
        except KeyboardInterrupt:  # the user's, as far as anybody can tell
            raise
        except BaseException as failure:  # a stranger may raise anything
            error = told(failure)
        statuses.append(PluginStatus(point.name, owner, dist.version if dist else "?", error))
    _loading.pop()
    return registry, statuses


@cache
def loaded() -> tuple[Registry, list[PluginStatus]]:
    """Return what :func:`load_registry` gives in this process."""
    return load_registry()


def registry() -> Registry:
    """Return the registry of this process, filled from the built-ins and installed plugins."""
    return loaded()[0]


def is_loading() -> bool:
    """Return whether plugins are being loaded just now."""
    return bool(_loading)


def plugin_statuses() -> list[PluginStatus]:
    """Return what happened to every third-party plugin, single files included."""
    return loaded()[1]


def register_plugin(registry: Registry, plugin: object, owner: str, folder: Path = Path()) -> None:
    """Let one plugin register everything it brings, all or nothing.

    A plugin in several packages names them in ``tokenred_plugins = (".one", ".two")``; each holds
    hooks of its own.

    Parameters
    ----------
    folder : from which relative paths of its files are meant

    Raises
    ------
    PluginError
        If a function marked as a hook has no such hook, has the wrong arguments, or a name
        collides.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, owner)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {owner}: {_one_line(error)}") from None
    adders = _adders(registry, owner, _package_of(plugin), folder)
    for caller in manager.get_hookcallers(plugin) or ():
        if caller.name not in adders:
            raise PluginError(f"plugin {owner}: unknown hook '{caller.name}'{_advice(caller.name)}")
    with registry.all_or_nothing():
        for hook, register in adders.items():
            for implementation in getattr(manager.hook, hook).get_hookimpls():
                implementation.function(register=register)
        for inner in getattr(plugin, "tokenred_plugins", ()):
            register_plugin(registry, import_module(inner, _package_of(plugin)), owner, folder)


def _adders(
    registry: Registry, owner: str, package: str, folder: Path
) -> dict[str, Callable[..., None]]:
    """Return hook -> the ``register`` that it is called with."""

    def strategy(name: str, target: Any, role: str | None = None) -> None:
        role = role or role_of(target)
        if isinstance(target, str) and not role:
            raise PluginError(
                f"'{name}' of {owner}: a class that is given by name needs its role, as in "
                f'register("{name}", "{target}", "coupler")'
            )
        if role not in ALL_ROLES:
            raise PluginError(
                f"'{name}' of {owner}: unknown role '{role}'{nearest(role, ALL_ROLES)}"
                if role
                else f"'{name}' of {owner}: {quoted(target)} is no strategy; derive it from the "
                "base class of its role, such as tokenred.Coupler"
            )
        registry.add(Entry(role, name, _absolute(target, package), owner))

    def other(kind: str) -> Callable[[str, Any], None]:
        def register(name: str, what: Any) -> None:
            what = folder / what if kind in FILES else _absolute(what, package)
            registry.add_other(kind, name, what, owner)

        return register

    return {
        STRATEGIES_HOOK: strategy,
        **{hook_of(kind): other(kind) for kind in (*FILES, *TARGETS)},
    }


def _advice(hook: str) -> str:
    if hook in {f"register_{plural(role)}".replace("-", "_") for role in ALL_ROLES}:
        return f"; strategies of every role come in by {STRATEGIES_HOOK}"
    return nearest(hook, [STRATEGIES_HOOK, *(hook_of(kind) for kind in (*FILES, *TARGETS))])


def _package_of(plugin: object) -> str:
    module = inspect.getmodule(plugin)
    return (module.__spec__.parent or "") if module and module.__spec__ else ""


def _absolute(target: Any, package: str) -> Any:
    """Return a class as it is, and the name of one with the dots before it filled in."""
    return resolve_name(target, package) if isinstance(target, str) else target


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
