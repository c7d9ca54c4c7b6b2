"""Which code and which environment made a number."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel

import tokenred
from tokenred.config import StrategyConfig
from tokenred.plugins import plugin_statuses
from tokenred.registry import HARNESS_ROLES, registry

NO_RESULTS = ("cli", "report", "testing")
"""Folders that cannot change a result; editing them keeps stored results valid."""


@cache
def package_version() -> str:
    """Return tokenred's version with a hash of its sources, so that edited code is told apart."""
    return f"{tokenred.__version__}+{hash_sources(Path(tokenred.__file__).parent)}"


def hash_sources(root: Path) -> str:
    """Return 8 hex digits over the Python and C code of a package that can change a result.

    Docstrings, comments and layout of Python code do not count.
    """
    digest = hashlib.sha256()
    for source in sorted((*root.rglob("*.py"), *root.rglob("*.c"))):
        place = source.relative_to(root)
        if place.parts[0] not in NO_RESULTS:
            content = source.read_bytes()
            code = _python_code(content) if source.suffix == ".py" else content
            digest.update(f"{place.as_posix()}\n".encode() + code)
    return digest.hexdigest()[:8]


def _python_code(source: bytes) -> bytes:
    """Return what Python makes of a source, without statements that are nothing but a text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [each for each in node.body if not _is_text(each)]
    return ast.dump(tree).encode()


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def code_version(*configs: BaseModel) -> str:
    """Return the version of all code behind a result: tokenred's and that of the plugins in use.

    Parameters
    ----------
    configs : of the pipeline, and of the task if it comes from a plugin or its scorer does
    """
    owners = sorted({owner for owner in _owners(configs) if owner != "tokenred"})
    return " ".join([package_version(), *(f"{owner}={_installed(owner)}" for owner in owners)])


def _owners(value: object) -> Iterator[str]:
    """Yield the owner of every strategy inside a config."""
    if isinstance(value, StrategyConfig):
        for entry in (each for role in (None, *HARNESS_ROLES) for each in registry().entries(role)):
            if entry.name == value.name and type(value) is entry.config_class:
                yield entry.owner
    if isinstance(value, BaseModel):
        for _, inner in value:
            yield from _owners(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _owners(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _owners(inner)


def _installed(distribution: str) -> str:
    for status in plugin_statuses():
        if status.distribution == distribution:
            return status.version
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
