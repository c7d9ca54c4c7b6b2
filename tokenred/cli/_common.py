"""Output, common options and ``--set`` parsing of the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.errors import ConfigError, quoted

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a dotted path; repeat for more."),
]


def _load_plugin_files(context: typer.Context, paths: list[Path] | None) -> list[Path]:
    """Load plugin files for one call."""
    from tokenred.plugin_files import load_plugin_file, unload_plugin_file

    for path in paths or ():
        load_plugin_file(path)
        context.call_on_close(partial(unload_plugin_file, path))
    return paths or []


PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file with strategies of your own; repeat for more.",
        callback=_load_plugin_files,
    ),
]


def say(message: str) -> None:
    """Print a message to stderr."""
    print(message, file=sys.stderr)


def emit(data: Any) -> None:
    """Print a JSON document to stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def table_console(pipe_width: int = 180) -> Console:
    """Return a console for tables; ``pipe_width`` is used where stdout is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=pipe_width)


def align_columns(rows: Iterable[Sequence[str]]) -> str:
    """Align rows of text in columns; the last one is not padded."""
    table = [list(row) for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)] if table else []
    lines = []
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def parse_overrides(pairs: Iterable[str] | None) -> dict[str, Any]:
    """Read ``a.b=v`` pairs; ``v`` is YAML, so ``0.1``, ``null`` and ``[3, 3]`` mean what they say.

    Raises
    ------
    ConfigError
        If a pair has no ``=``, no path, one that was given before, or a value that is not YAML.
    """
    from tokenred.texts import parse_yaml

    overrides: dict[str, Any] = {}
    for pair in pairs or ():
        path, equals, value = pair.partition("=")
        path = path.strip()
        if not equals or not path:
            raise ConfigError(f"write --set PATH=VALUE, got {quoted(pair)}")
        if path in overrides:
            raise ConfigError("given twice", [path])
        try:
            overrides[path], _ = parse_yaml(value)
        except ConfigError as error:
            message = f"{error.message} (got {quoted(value)})"
            raise ConfigError(message, [path, *error.path]) from None
    return overrides


def parse_sweep(pairs: Iterable[str] | None) -> dict[str, list[Any]]:
    """Read ``a.b=v1,v2``; every value is YAML, and commas inside brackets part none.

    Raises
    ------
    ConfigError
        If a pair has no path or fewer than two values, or a value is not YAML.
    """
    from tokenred.texts import parse_yaml

    found: dict[str, list[Any]] = {}
    for pair in pairs or ():
        path, equals, values = pair.partition("=")
        path = path.strip()
        if not equals or not path or not values.strip():
            raise ConfigError(f"write --sweep PATH=V1,V2, got {quoted(pair)}")
        if path in found:
            raise ConfigError("given twice", [path])
        try:
            parsed, _ = parse_yaml(f"[{values}]")
        except ConfigError as error:
            message = f"{error.message} (got {quoted(values)})"
            raise ConfigError(message, [path]) from None
        if len(parsed) < 2:
            raise ConfigError(f"a sweep needs two values or more, got {quoted(values)}", [path])
        found[path] = list(parsed)
    return found


def parse_retention(text: str) -> list[float] | None:
    """Read ``0.25,0.10``; None if nothing is given."""
    if not text.strip():
        return None
    try:
        ratios = [float(part) for part in text.split(",")]
    except ValueError:
        ratios = []
    if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
        raise ConfigError(
            f"expected ratios in (0, 1] such as 0.25,0.10, got {quoted(text)}", ["--retention"]
        )
    return list(dict.fromkeys(ratios))
