"""Finds plugins and lets them register. Built-ins come through the same door as strangers."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import resolve_name
from typing import Any

import pluggy

from tokenred import hookspecs
from tokenred.errors import PluginError, TokenredError
from tokenred.registry import HARNESS_ROLES, ROLES, Entry, Registry

BUILTIN = ("tokenred.strategies", "tokenred.families", "tokenred.evaluation.builtin")
ENTRY_POINT_GROUP = "tokenred"
SWITCH = "TOKENRED_LOAD_PLUGINS"
"""Set this environment variable to ``0`` and no third-party plugin is loaded."""


@dataclass(frozen=True)
class PluginStatus:
    """One plugin as found: where it comes from, and why it did not load, if it did not."""

    name: str
    distribution: str
    version: str
    error: str | None = None


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
    statuses = []
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP)) if third_party else []:
        dist = point.dist
        owner = dist.name if dist else point.name
        try:
            register_plugin(registry, point.load(), owner)
            error = None
        except TokenredError as failure:
            error = str(failure)
        except Exception as failure:  # a stranger's import may raise anything
            error = f"{type(failure).__name__}: {failure}"
        statuses.append(PluginStatus(point.name, owner, dist.version if dist else "?", error))
    return registry, statuses


@cache
def loaded() -> tuple[Registry, list[PluginStatus]]:
    """Return what :func:`load_registry` gives in this process."""
    return load_registry()


def plugin_statuses() -> list[PluginStatus]:
    """Return what happened to every third-party plugin."""
    return loaded()[1]


def register_plugin(registry: Registry, plugin: object, owner: str) -> None:
    """Let one plugin register everything it brings, all or nothing.

    A plugin in several packages names them in ``tokenred_plugins = (".one", ".two")``; each holds
    hooks of its own.

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
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin {owner}: {_one_line(error)}") from None
    package = _package_of(plugin)
    before = dict(registry._entries), dict(registry._presets), dict(registry._adapters)
    try:
        for role, hook in {**ROLES, **HARNESS_ROLES}.items():
            _call(manager, hook, _adder(registry, role, owner, package))
        _call(manager, "register_model_adapters", _adapter_adder(registry, owner, package))
        _call(manager, "register_presets", partial(registry.add_preset, owner=owner))
        for inner in getattr(plugin, "tokenred_plugins", ()):
            register_plugin(registry, import_module(inner, package), owner)
    except Exception:
        registry._entries, registry._presets, registry._adapters = before
        raise


def _call(manager: pluggy.PluginManager, hook: str, register: Callable[..., None]) -> None:
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        implementation.function(register=register)


def _adder(
    registry: Registry, role: str, owner: str, package: str
) -> Callable[[str, Any, Any], None]:
    def register(name: str, factory: Any, config_class: Any) -> None:
        strategy, config = _absolute(factory, package), _absolute(config_class, package)
        if isinstance(strategy, str) and isinstance(config, str) and ":" not in config:
            config = f"{strategy.partition(':')[0]}:{config}"
        registry.add(Entry(role, name, strategy, config, owner))

    return register


def _adapter_adder(registry: Registry, owner: str, package: str) -> Callable[[str, str], None]:
    def register(model_class: str, target: str) -> None:
        registry.add_adapter(model_class, _absolute(target, package), owner)

    return register


def _package_of(plugin: object) -> str:
    module = inspect.getmodule(plugin)
    return (module.__spec__.parent or "") if module and module.__spec__ else ""


def _absolute(target: Any, package: str) -> Any:
    """Return a class as it is, and the name of one with the dots before it filled in."""
    return resolve_name(target, package) if isinstance(target, str) else target


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
