"""``@tokenred.register("name")``: a strategy known at once, in a notebook or a single file."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokenred import plugins
from tokenred.errors import PluginError
from tokenred.plugin_files import PREFIX, content_hash
from tokenred.registry import Entry, role_of

Class = TypeVar("Class", bound=type)
NOTEBOOK = "notebook"
"""Owner of what is registered where there is no file."""
_texts: dict[str, dict[tuple[str, str], bytes]] = {}


def register(name: str) -> Callable[[Class], Class]:
    """Register the class below under ``name``.

    It derives from the base class of its role, such as :class:`tokenred.Coupler`. A cell that runs
    again replaces what it has registered before.

    Raises
    ------
    PluginError
        If the class is no strategy, lacks something of its role, or the name is somebody else's.
    """

    def decorate(cls: Class) -> Class:
        if plugins.is_loading():
            raise PluginError(
                f"'{name}' belongs to a distribution, which registers with hooks; "
                "@tokenred.register is for notebooks and single files"
            )
        registry, statuses = plugins.loaded()
        role = role_of(cls)
        if not role:
            raise PluginError(
                f"'{name}': {cls.__name__} derives from no role; begin with the base class of one, "
                f"as in class {cls.__name__}(tokenred.Coupler)"
            )
        owner, source = _owner_of(cls)
        with registry.all_or_nothing():
            if source is not None:
                registry.forget(owner, (role, name))
            registry.add(Entry(role, name, cls, owner))
        if source is not None:
            texts = _texts.setdefault(owner, {})
            texts[role, name] = source
            version = content_hash(b"\n".join(sorted(set(texts.values()))))
            statuses[:] = [each for each in statuses if each.distribution != owner]
            statuses.append(plugins.PluginStatus(owner, owner, version))
        return cls

    return decorate


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
            function = inspect.unwrap(function)
            texts.append(inspect.getsource(function))
        except OSError:  # typed into a plain interpreter
            texts.append(repr((function.__code__.co_code, function.__code__.co_consts)))
    return "\n".join(texts).encode()
