"""One registry feeds the CLI listing, the docs, the JSON schema and the property tests.

It remembers who owns each name, refuses collisions and suggests near names.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenred.errors import ConfigError, PluginError, nearest

ROLES = {
    "selector": "register_anchor_selectors",
    "coupler": "register_couplers",
    "aggregator": "register_aggregators",
    "segmenter": "register_temporal_segmenters",
    "cost term": "register_cost_terms",
    "keep score": "register_keep_scores",
    "keep decision": "register_keep_decisions",
    "frame reference": "register_frame_references",
    "static rule": "register_static_rules",
    "budget allocator": "register_budget_allocators",
    "token grouper": "register_token_groupers",
    "token ranker": "register_token_rankers",
    "layer merger": "register_layer_mergers",
    "layer reducer": "register_layer_reducers",
    "cache pruner": "register_cache_pruners",
}
"""What a pipeline is made of -> its hook."""

HARNESS_ROLES = {"task": "register_tasks", "scorer": "register_scorers"}
"""What a comparison is made of -> its hook."""

METHODS = Path(__file__).with_name("methods.json")
"""Role, or ``pipeline`` -> the names that tokenred-methods brings, for errors without it."""


@dataclass(frozen=True)
class Entry:
    """One registered strategy: its role and name, how to build it, and whose it is.

    ``strategy`` and ``config`` are classes, or ``"module:Class"`` for what is imported when
    ``factory`` or ``config_class`` is first asked for.
    """

    role: str
    name: str
    strategy: Any
    config: Any
    owner: str

    def __str__(self) -> str:
        return f"{self.role} '{self.name}' of {self.owner}"

    @cached_property
    def factory(self) -> Any:
        """The strategy's class."""
        return self._imported(self.strategy)

    @cached_property
    def config_class(self) -> Any:
        """The class of its settings."""
        from tokenred.config import StrategyConfig  # configs look names up in the registry

        found = self._imported(self.config)
        if not (isinstance(found, type) and issubclass(found, StrategyConfig)):
            raise PluginError(f"the config of {self} is no StrategyConfig: {self.config}")
        return found

    def _imported(self, target: Any) -> Any:
        if not isinstance(target, str):
            return target
        module, name = target.split(":")
        try:
            return getattr(import_module(module), name)
        except Exception as error:  # a stranger's import may raise anything
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise PluginError(f"{self}: {target} cannot be imported ({why})") from error


@dataclass
class Registry:
    """Names of all strategies by role, of presets, and the adapters of models."""

    _entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    _presets: dict[str, tuple[Path, str]] = field(default_factory=dict)
    _adapters: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Add a strategy; a name that is taken in its role is a PluginError."""
        taken = self._entries.get((entry.role, entry.name))
        if taken is not None:
            raise PluginError(f"{entry} is already taken by {taken.owner}")
        if not entry.name or entry.name != entry.name.strip().lower() or " " in entry.name:
            raise PluginError(
                f"{entry.role} name '{entry.name}' of {entry.owner} is not lower kebab case"
            )
        for target in (entry.strategy, entry.config):
            _check_target(target, entry.owner)
        if not isinstance(entry.config, str):
            _ = entry.config_class  # a fault that shows without an import shows now
        self._entries[entry.role, entry.name] = entry

    def add_preset(self, name: str, path: Path, owner: str) -> None:
        """Add a pipeline file under ``name``."""
        if name in self._presets:
            taken = self._presets[name][1]
            raise PluginError(f"preset '{name}' of {owner} is already taken by {taken}")
        self._presets[name] = (Path(path), owner)

    def add_adapter(self, model_class: str, target: str, owner: str) -> None:
        """Add the adapter ``module:Class`` of a model class."""
        if model_class in self._adapters:
            taken = self._adapters[model_class][1]
            raise PluginError(f"the adapter of {model_class} is already that of {taken}")
        _check_target(target, owner)
        self._adapters[model_class] = (target, owner)

    def adapters(self) -> dict[str, tuple[str, str]]:
        """Return model class -> (``module:Class`` of its adapter, owner)."""
        return dict(self._adapters)

    def get(self, role: str, name: str) -> Entry:
        """Return the strategy called ``name``, or a ConfigError with the nearest name."""
        if (role, name) not in self._entries:
            raise ConfigError(f"unknown {role} '{name}'{hint(role, name, self.names(role))}")
        return self._entries[role, name]

    def names(self, role: str) -> list[str]:
        """Return the sorted names of a role."""
        return [entry.name for entry in self.entries(role)]

    def entries(self, role: str | None = None) -> list[Entry]:
        """Return what is registered for a role, or all strategies, sorted by role and name."""
        roles = list(ROLES) if role is None else [role]
        chosen: Iterable[Entry] = self._entries.values()
        return sorted(
            (entry for entry in chosen if entry.role in roles),
            key=lambda entry: (roles.index(entry.role), entry.name),
        )

    def presets(self) -> dict[str, tuple[Path, str]]:
        """Return preset name -> (file, owner)."""
        return dict(sorted(self._presets.items()))

    def preset(self, name: str) -> Path:
        """Return the file of a preset, or a ConfigError with the nearest name."""
        if name not in self._presets:
            raise ConfigError(f"unknown pipeline '{name}'{hint('pipeline', name, self._presets)}")
        return self._presets[name][0]


def registry() -> Registry:
    """Return the registry of this process, filled from the built-ins and installed plugins."""
    from tokenred.plugins import loaded  # the manager needs the class above

    return loaded()[0]


def hint(role: str, name: str, valid: Iterable[str]) -> str:
    """Return a clause on an unknown name: what would bring it, or which valid one is near."""
    if name in json.loads(METHODS.read_text(encoding="utf-8")).get(role, []):
        return "; it comes with tokenred-methods: pip install 'tokenred[methods]'"
    return nearest(name, valid)


def _check_target(target: Any, owner: str) -> None:
    if isinstance(target, str) and target.count(":") != 1:
        raise PluginError(f"a class is given as 'module:Class', {owner} gives '{target}'")
