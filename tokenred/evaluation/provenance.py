"""Versions of the code behind a result."""

import ast
import hashlib
import io
import os
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel

import tokenred
from tokenred.config import StrategyConfig
from tokenred.kernels.native import kernels_in_use
from tokenred.plugins import plugin_statuses, registry
from tokenred.slots import parts

NO_RESULTS = ("cli", "report", "testing")
"""Folders that cannot change a result; editing them keeps stored results valid."""

REMEMBERED = Path("~/.cache/tokenred/code")
"""Folder with the hash of every state of the sources that was met."""


@cache
def package_version() -> str:
    """Return tokenred's version with a hash of its sources, to tell edited code apart."""
    return f"{tokenred.__version__}+{hash_sources(Path(tokenred.__file__).parent)}"


def hash_sources(root: Path) -> str:
    """Return 8 hex digits over the Python and C code of a package that can change a result.

    Docstrings, comments and empty lines of Python code do not count. Hashes are cached in
    ``REMEMBERED`` by content, as parsing takes most of a second.
    """
    sources = {
        place.as_posix(): source.read_bytes()
        for source in sorted((*root.rglob("*.py"), *root.rglob("*.c")))
        if (place := source.relative_to(root)).parts[0] not in NO_RESULTS
    }
    known = REMEMBERED / f"{_digest(sources)}-{_digest({'rule': Path(__file__).read_bytes()})}"
    with suppress(OSError, RuntimeError, UnicodeDecodeError):  # or there is no home folder
        known = known.expanduser()
        found = known.read_text(encoding="utf-8")
        if re.fullmatch("[0-9a-f]{8}", found):
            return found
    found = _digest(
        {name: _code(text) if name.endswith(".py") else text for name, text in sources.items()}
    )[:8]
    with suppress(OSError, RuntimeError):
        known = known.expanduser()
        known.parent.mkdir(parents=True, exist_ok=True)
        draft = known.with_name(f".{known.name}.{os.getpid()}")
        draft.write_text(found, encoding="utf-8")
        draft.replace(known)
    return found


def _digest(texts: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, text in texts.items():
        digest.update(f"{name}\n".encode() + text)
    return digest.hexdigest()[:32]


def _code(source: bytes) -> bytes:
    """Return Python source without comments, docstrings and empty lines."""
    lines = source.decode().split("\n")
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for text in filter(_is_text, node.body):
                last = text.end_lineno or text.lineno
                lines[text.lineno - 1 : last] = [""] * (last - text.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def code_version(*configs: BaseModel) -> str:
    """Return the version of the code behind a result: tokenred and the plugins in use.

    Parameters
    ----------
    configs : of the pipeline, and of the task if it comes from a plugin or its scorer does
    """
    owners = sorted({owner for owner in _owners(configs) if owner != "tokenred"})
    kernels = kernels_in_use()  # sums of compiled code differ in the last digits
    compiled = [] if kernels == "torch" else [f"kernels={kernels.split()[-1]}"]
    plugins = (f"{owner}={_installed(owner)}" for owner in owners)
    return " ".join([package_version(), *compiled, *plugins])


def _owners(configs: Iterable[BaseModel]) -> Iterator[str]:
    """Yield the owner of every strategy inside configs; what is a strategy's own is a task's."""
    for config in configs:
        own = [("task", config)] if isinstance(config, StrategyConfig) else []
        for role, part in (*own, *parts(config)):
            if part.name in registry().names(role):
                yield registry().get(role, part.name).owner


def _installed(distribution: str) -> str:
    for status in plugin_statuses():
        if status.distribution == distribution:
            return status.version
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
