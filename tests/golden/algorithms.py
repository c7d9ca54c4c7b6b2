"""All algorithms that golden cases name and tokenred or its plugins implement.

Every module here, and in the ``tests/golden`` of a plugin, that runs some has a dictionary
``ALGORITHMS`` of its own.
"""

import pkgutil
from importlib import import_module

import golden

_NOT_RUNNERS = ("algorithms", "compare", "index", "record")
_MODULES = [
    import_module(f"golden.{module.name}")
    for module in pkgutil.iter_modules(golden.__path__)
    if module.name not in _NOT_RUNNERS and not module.name.startswith("test_")
]
ALGORITHMS = {name: run for module in _MODULES for name, run in module.ALGORITHMS.items()}
