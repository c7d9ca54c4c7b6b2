"""Finds plugins and lets them register. Built-ins come through the same door as strangers."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any

import pluggy

from tokenred import hookspecs
from tokenred.errors import PluginError, TokenredError
from tokenred.registry import HARNESS_ROLES, ROLES, Entry, Registry

BUILTIN = ("tokenred.strategies", "tokenred.models.families", "tokenred.evaluation.builtin")
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
        register_plugin(registry, importlib.import_module(module), "tokenred")
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
def plugin_statuses() -> list[PluginStatus]:
    """Return what happened to every third-party plugin."""
    return load_registry()[1]


def register_plugin(registry: Registry, plugin: object, owner: str) -> None:
    """Let one plugin register everything it brings, all or nothing.

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
    before = dict(registry._entries), dict(registry._presets), dict(registry._adapters)
    try:
        for role, hook in {**ROLES, **HARNESS_ROLES}.items():
            _call(manager, hook, _adder(registry, role, owner))
        _call(manager, "register_model_adapters", partial(registry.add_adapter, owner=owner))
        _call(manager, "register_presets", partial(registry.add_preset, owner=owner))
    except Exception:
        registry._entries, registry._presets, registry._adapters = before
        raise


def _call(manager: pluggy.PluginManager, hook: str, register: Callable[..., None]) -> None:
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        implementation.function(register=register)


def _adder(registry: Registry, role: str, owner: str) -> Callable[[str, Any, Any], None]:
    def register(name: str, factory: Any, config_class: Any) -> None:
        from tokenred.config import StrategyConfig  # configs look names up in the registry

        if not (isinstance(config_class, type) and issubclass(config_class, StrategyConfig)):
            raise PluginError(f"the config of {role} '{name}' of {owner} is no StrategyConfig")
        registry.add(Entry(role, name, factory, config_class, owner))

    return register


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
