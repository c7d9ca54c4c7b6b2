"""What the plugins of this repository say about themselves, in their ``tests/fields/NAME.py``."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenred import registry

ROOT = Path(__file__).parents[2]


@cache
def modules() -> dict[str, ModuleType]:
    """Return package -> its table as a module, of the distributions that are installed."""
    owners = {entry.owner for entry in registry().entries()}
    found = {}
    for path in sorted(ROOT.glob("plugins/*/tests/fields/*.py")):
        owner = path.parents[2].name
        if owner in owners:
            spec = importlib.util.spec_from_file_location(f"fields_of_{path.stem}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found[f"{owner.replace('-', '_')}.{path.stem}"] = module
    return found


def rows(table: str) -> dict[Any, Any]:
    """Return one of the tables of all plugins; each package speaks for its own strategies only."""
    merged: dict[Any, Any] = {}
    for package, module in modules().items():
        mine = getattr(module, table, {})
        doubled = set(merged) & set(mine)
        assert not doubled, f"{package}: {table} of {doubled} is another's already"
        merged.update(mine)
    return merged
