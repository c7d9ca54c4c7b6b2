"""One registry feeds the CLI listing, the docs, the JSON schema and the property tests.

It remembers who owns each name, refuses collisions and suggests near names.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from tokenred.errors import ConfigError, PluginError, nearest, told

ROLES = (
    "stage",
    "selector",
    "coupler",
    "aggregator",
    "segmenter",
    "cost term",
    "keep score",
    "keep decision",
    "frame reference",
    "static rule",
    "budget allocator",
    "token grouper",
    "token ranker",
    "layer merger",
    "layer reducer",
    "cache pruner",
)
"""What a pipeline is made of."""

HARNESS_ROLES = ("task", "scorer")
"""What a comparison is made of."""

ALL_ROLES = (*ROLES, *HARNESS_ROLES)

FILES = ("preset", "ablation")
"""What is registered by a file."""

TARGETS = ("model adapter", "verb", "executor")
"""What is registered by a name, and imported when it is first used."""


def name_key(role: str) -> str:
    """Return the key under which files name what they take of a role."""
    return "kind" if role == "stage" else "name"


def plural(kind: str) -> str:
    """Return ``cost-terms`` for a cost term: what `tokenred list` calls them."""
    return f"{kind}s".replace(" ", "-")


STRATEGIES_HOOK = "register_strategies"


def hook_of(kind: str) -> str:
    """Return the name of the hook that registers a kind: one for all roles, else its own."""
    return STRATEGIES_HOOK if kind in ALL_ROLES else f"register_{plural(kind)}".replace("-", "_")


METHODS = Path(__file__).with_name("methods.json")
"""Role, ``pipeline`` or ``ablation`` -> names that tokenred-methods brings, for errors without."""


@dataclass(frozen=True)
class Entry:
    """One registered strategy: its role and name, its class, and whose it is.

    ``strategy`` is a class, or ``"module:Class"`` of one that is imported when ``factory`` or
    ``config_class`` is first asked for.
    """

    role: str
    name: str
    strategy: Any
    owner: str

    def __str__(self) -> str:
        return f"{self.role} '{self.name}' of {self.owner}"

    @cached_property
    def factory(self) -> Any:
        """The strategy's class."""
        found = import_target(self.strategy, str(self))
        self._check(found)
        return found

    @cached_property
    def config_class(self) -> Any:
        """The class of its settings."""
        return self.factory.config_class()

    def _check(self, found: Any) -> None:
        role = role_of(found)
        if role != self.role:
            what = f"it derives from the base of a {role}" if role else "it derives from no role"
            raise PluginError(f"{self}: {self.strategy} is no {self.role}, {what}")
        if found.lacks():
            lacking = " and ".join(f"'{name}'" for name in found.lacks())
            raise PluginError(f"{self}: {found.__name__} does not define {lacking}")
        found.config_class()
        if len(signature(found.__init__).parameters) < 2:
            raise PluginError(
                f"{self}: {found.__name__}.__init__ takes the settings: __init__(self, config)"
            )


def role_of(found: Any) -> str:
    """Return the role of a strategy's class; nothing if it is none."""
    from tokenred.strategy import Strategy  # brings pydantic, which a list of names does not need

    return found.role if isinstance(found, type) and issubclass(found, Strategy) else ""


@dataclass
class Registry:
    """What is registered, each under its owner: strategies by role, and the rest by kind."""

    _entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    _others: dict[tuple[str, str], tuple[Any, str]] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Add a strategy; a name that is taken in its role is a PluginError."""
        taken = self._entries.get((entry.role, entry.name))
        if taken is not None:
            raise PluginError(f"{entry} is already taken by {taken.owner}")
        if not entry.name or entry.name != entry.name.strip().lower() or " " in entry.name:
            raise PluginError(
                f"{entry.role} name '{entry.name}' of {entry.owner} is not lower kebab case"
            )
        _check_target(entry.strategy, entry.owner)
        if not isinstance(entry.strategy, str):
            _ = entry.factory  # a fault that shows without an import shows now
        self._entries[entry.role, entry.name] = entry

    def add_other(self, kind: str, name: str, what: Any, owner: str) -> None:
        """Add what is no strategy: a file, or ``"module:name"`` of what is imported when needed."""
        taken = self._others.get((kind, name))
        if taken is not None:
            raise PluginError(f"{kind} '{name}' of {owner} is already taken by {taken[1]}")
        if kind not in FILES:
            _check_target(what, owner)
        self._others[kind, name] = (Path(what) if kind in FILES else what, owner)

    def others(self, kind: str) -> dict[str, tuple[Any, str]]:
        """Return name -> (file, or what is imported; owner)."""
        return {name: found for (its, name), found in self._others.items() if its == kind}

    def adapters(self) -> dict[str, tuple[str, str]]:
        """Return model class -> (``module:Class`` of its adapter, owner)."""
        return self.others("model adapter")

    def ablations(self) -> dict[str, tuple[Path, str]]:
        """Return ablation name -> (file, owner)."""
        return dict(sorted(self.others("ablation").items()))

    def imported(self, kind: str, name: str) -> Any:
        """Return what is registered under a name, imported; or a ConfigError with the nearest."""
        known = self.others(kind)
        if name not in known:
            raise ConfigError(f"unknown {kind} '{name}'{nearest(name, known)}")
        target, owner = known[name]
        return import_target(target, f"{kind} '{name}' of {owner}")

    def owned(self, owner: str) -> list[str]:
        """Return what an owner has registered, such as ``"coupler nearest"``."""
        strategies = [e for role in (None, *HARNESS_ROLES) for e in self.entries(role)]
        return [f"{e.role} {e.name}" for e in strategies if e.owner == owner] + [
            " ".join(key) for key, (_, whose) in sorted(self._others.items()) if whose == owner
        ]

    def forget(self, owner: str, key: tuple[str, str] | None = None) -> None:
        """Remove what an owner has registered: everything, or one role and name."""
        for entries, whose in (
            (self._entries, {each: entry.owner for each, entry in self._entries.items()}),
            (self._others, {each: found[1] for each, found in self._others.items()}),
        ):
            for each, its in whose.items():
                if its == owner and key in (None, each):
                    del entries[each]

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what is registered inside if it ends in an error."""
        before = dict(self._entries), dict(self._others)
        try:
            yield
        except BaseException:
            self._entries, self._others = before
            raise

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
        return dict(sorted(self.others("preset").items()))

    def preset(self, name: str) -> Path:
        """Return the file of a preset, or a ConfigError with the nearest name."""
        known = self.others("preset")
        if name not in known:
            raise ConfigError(f"unknown pipeline '{name}'{hint('pipeline', name, known)}")
        return known[name][0]


def hint(kinds: str | tuple[str, ...], name: str, valid: Iterable[str]) -> str:
    """Return a clause on an unknown name: what would bring it, or which valid one is near."""
    brought = json.loads(METHODS.read_text(encoding="utf-8"))
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if any(name in brought.get(kind, []) for kind in kinds):
        return "; it comes with tokenred-methods: pip install 'tokenred[methods]'"
    return nearest(name, valid)


def import_target(target: Any, what: str) -> Any:
    """Return what ``"module:name"`` names, or what is no name as it is."""
    if not isinstance(target, str):
        return target
    module, name = target.split(":")
    try:
        return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # a stranger's import may raise anything
        raise PluginError(f"{what}: {target} cannot be imported ({told(error)})") from error


def _check_target(target: Any, owner: str) -> None:
    if isinstance(target, str) and target.count(":") != 1:
        raise PluginError(f"a class is given as 'module:Class', {owner} gives '{target}'")
