"""``tokenred list``: registered strategies, presets and verbs, with owner and summary."""

import ast
import inspect
import shutil
import textwrap
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenred.cli._common import Json, PluginFiles, align_columns, emit, say
from tokenred.errors import ConfigError, TokenredError, nearest
from tokenred.plugins import registry
from tokenred.registry import FILES, HARNESS_ROLES, ROLES, TARGETS, Entry, plural

EXAMPLES = (
    "tokenred list",
    "tokenred list selectors",
    "tokenred list presets --long",
)
"""What its help shows."""

_NO_BREAK = "\u00a0"

KINDS = {plural(kind): kind for kind in (*ROLES, *HARNESS_ROLES, *FILES, *TARGETS)}
"""What can be listed, in the plural, and its singular."""


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help=f"One of {', '.join(KINDS)}; default all."),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Whole sentences and owners, however wide.")
    ] = False,
    plugin: PluginFiles = None,
    json: Json = False,
) -> None:
    """List what is registered: strategies, presets, verbs, and so on, by kind."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"there is no list of '{kind}'{nearest(kind, KINDS)}")
    if kind is None and not (long or json):
        _warn_of_broken_plugins()
        print(_by_kind())
        return
    rows = [row for name in KINDS if kind in (None, name) for row in _rows(KINDS[name])]
    _warn_of_broken_plugins()
    if json:
        emit(rows)
    elif rows and long:
        columns = ("kind", "name", "owner", "summary")
        print(align_columns([[row[column] for column in columns] for row in rows]))
    elif rows:
        print(_cut(align_columns([[row["name"], row["summary"]] for row in rows])))


def _by_kind() -> str:
    """Return the names of everything, a paragraph a kind, as wide as the terminal."""
    paragraphs = []
    for name, kind in KINDS.items():
        found = _names(kind)
        if not found:
            continue
        text = textwrap.fill(
            "  ".join(each.replace(" ", _NO_BREAK) for each in found),
            width=_width(),
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        paragraphs.append(f"{name} ({len(found)})\n{text.replace(_NO_BREAK, ' ')}")
    hint = textwrap.fill(
        "`tokenred list KIND` says what each does, --long also whose it is", _width()
    )
    return "\n\n".join([*paragraphs, hint])


def _names(kind: str) -> list[str]:
    if kind == "preset":
        return list(registry().presets())
    if kind == "ablation":
        return list(registry().ablations())
    if kind in TARGETS:
        return list(registry().others(kind))
    return [entry.name for entry in registry().entries(kind)]


def _cut(text: str) -> str:
    """Return lines no longer than the terminal is wide."""
    width = _width()
    return "\n".join(
        line if len(line) <= width else line[: width - 1].rstrip() + "…"
        for line in text.split("\n")
    )


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _rows(kind: str) -> list[dict[str, str]]:
    if kind == "preset":
        return [
            _row(kind, name, owner, _told(_about, name))
            for name, (_, owner) in registry().presets().items()
        ]
    if kind == "ablation":
        return [
            _row(kind, name, owner, _told(_question, path))
            for name, (path, owner) in registry().ablations().items()
        ]
    if kind in TARGETS:
        return [
            _row(kind, name, owner, _first_paragraph(_docstring(kind, target)))
            for name, (target, owner) in registry().others(kind).items()
        ]
    return [
        _row(kind, entry.name, entry.owner, _told(summary_of, entry))
        for entry in registry().entries(kind)
    ]


def _row(kind: str, name: str, owner: str, summary: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "owner": owner, "summary": summary}


def _told(read: Callable[[Any], str], source: Any) -> str:
    try:
        return read(source)
    except TokenredError as error:  # one broken file must not hide the others
        return f"cannot be loaded: {error}"


def _about(preset: str) -> str:
    from tokenred.files import read_pipeline

    about = read_pipeline(preset).get("about")
    return str(about.get("summary", "")) if isinstance(about, dict) else ""


def _question(ablation: Path) -> str:
    from tokenred.files import read_yaml

    return str(read_yaml(ablation).get("question", ""))


def summary_of(entry: Entry) -> str:
    """Return the first paragraph of a strategy's docstring, on one line."""
    return _first_paragraph(_written(entry.strategy) or inspect.getdoc(entry.factory) or "")


def _docstring(kind: str, target: str) -> str:
    told = None if kind == "model adapter" else _written(target)
    return told or f"served by {target}"


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _written(strategy: Any) -> str | None:
    """Return a docstring from the source of its module, without importing it."""
    if not isinstance(strategy, str):
        return None
    module, name = strategy.split(":")
    return _docstrings(module).get(name)


@cache
def _docstrings(module: str) -> dict[str, str | None]:
    try:
        spec = find_spec(module)
        body = ast.parse(Path(spec.origin).read_bytes()).body if spec and spec.origin else []
    except Exception:  # whatever it is, the import that follows will say
        return {}
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name: ast.get_docstring(node) for node in body if isinstance(node, kinds)}


def _warn_of_broken_plugins() -> None:
    from tokenred.plugins import plugin_statuses

    for status in plugin_statuses():
        if status.error:
            say(f"plugin {status.name} did not load; see `tokenred plugins`")
