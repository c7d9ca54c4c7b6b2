"""Pipelines and ablations as the data of their YAML files, not yet checked."""

import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenred.errors import ConfigError, InputError, quoted, shown
from tokenred.plugins import registry
from tokenred.texts import parse_yaml, read_text

SUFFIXES = (".yaml", ".yml")
MAX_EXTENDS = 16
MAX_PARTS = 32
"""Most parts of a dotted path."""


def shipped_files(folder: str) -> dict[str, Path]:
    """Return name -> file of what lies in a folder of the package: ``presets`` or ``ablations``."""
    found = (Path(str(files("tokenred"))) / folder).glob("*.yaml")
    return {path.stem: path for path in sorted(found)}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises
    ------
    ConfigError
        If the file cannot be read or holds something else.
    """
    data, _ = _parsed(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{shown(path)} does not hold a mapping")
    return data


def _parsed(path: Path) -> tuple[Any, dict[tuple[str, ...], int]]:
    try:
        return parse_yaml(read_text(path, "a YAML file"))
    except InputError as error:
        raise ConfigError(str(error)) from None
    except ConfigError as error:
        raise error.at(shown(path)) from None


def located(
    error: ConfigError, source: object, overrides: Mapping[str, Any] | None = None
) -> ConfigError:
    """Return an error about what a YAML file holds with the file, and the line if it is there.

    Parameters
    ----------
    source : whatever was read; only of a YAML file there is something to add
    overrides : dotted paths whose values do not come from the file
    """
    place = ".".join(error.path)
    ours = (each for path in overrides or () for each in (path, f"stages.{path}"))
    if error.where or not is_yaml(source) or any(f"{place}.".startswith(f"{p}.") for p in ours):
        return error
    path = Path(str(source))
    _, lines = _parsed(path)
    starts = [error.path[:n] for n in range(len(error.path), 0, -1)]
    places = [*starts, *(("set", ".".join(each)) for each in starts)]
    line = next((lines[each] for each in places if each in lines), None)
    return error.at(shown(path) if line is None else f"{shown(path)}, line {line}")


def is_yaml(source: object) -> bool:
    """Return whether a source is the path of a YAML file, rather than a name."""
    return isinstance(source, str | Path) and Path(source).suffix in SUFFIXES


def is_table(changes: object) -> bool:
    """Return whether something is a mapping of dotted paths."""
    return isinstance(changes, Mapping) and all(isinstance(path, str) for path in changes)


def read_pipeline(
    source: str | Path | Mapping[str, Any], _seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the data of a preset, a YAML file or a mapping, unvalidated.

    A file with ``extends: OTHER`` starts from the other one, a preset or a file whose path is
    relative to its own, and changes the dotted paths in ``set``.
    """
    data = dict(source) if isinstance(source, Mapping) else _read_pipeline_file(source)
    if "extends" not in data:
        return data
    try:
        return _extended(data, None if isinstance(source, Mapping) else Path(source), _seen)
    except ConfigError as error:
        raise located(error, source) from None


def own_changes(source: object) -> Mapping[str, Any]:
    """Return what a source sets on what it extends, as far as the source itself says so."""
    data: Any = read_yaml(Path(str(source))) if is_yaml(source) else source
    return (data.get("set") or {}) if isinstance(data, Mapping) else {}


def _extended(data: dict[str, Any], path: Path | None, seen: tuple[str, ...]) -> dict[str, Any]:
    base, changes = data.pop("extends"), data.pop("set", None) or {}
    if not isinstance(base, str) or not base:
        raise ConfigError(f"expected a preset or a YAML file, got {quoted(base)}", ["extends"])
    if is_yaml(base) and path is not None:
        base = str(path.parent / base)
    name = os.path.abspath(base) if is_yaml(base) else base
    if name in seen:
        raise ConfigError(f"'{shown(base)}' extends itself", ["extends"])
    if len(seen) == MAX_EXTENDS:
        raise ConfigError(f"more than {MAX_EXTENDS} files that extend each other", ["extends"])
    if not is_table(changes):
        raise ConfigError(f"expected dotted paths and values, got {quoted(changes)}", ["set"])
    try:
        result = {**read_pipeline(base, (*seen, name)), **data}
    except ConfigError as error:
        raise error if error.where else error.below(["extends"]) from None
    for place, value in changes.items():
        result = set_path(result, place, value)
    return result


ALIASES = {"aot": "aot-paper"}
"""Short names of presets."""


def _read_pipeline_file(source: str | Path) -> dict[str, Any]:
    name = ALIASES.get(str(source), str(source))
    path = Path(source) if is_yaml(source) else registry().preset(name)
    return {"name": path.stem, **read_yaml(path)}


def set_path(data: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of ``data`` with the dotted ``path`` set; a scalar on the way is an error."""
    if not isinstance(path, str):
        raise ConfigError(f"a dotted path is a text, got {quoted(path)}")
    head, _, rest = path.partition(".")
    if not head or path.endswith("."):
        raise ConfigError(f"an empty part in the dotted path {quoted(path)}")
    if rest.count(".") > MAX_PARTS:
        raise ConfigError(f"more than {MAX_PARTS} parts in the dotted path {quoted(path)}")
    try:
        return {**data, head: _set_inside(data.get(head, {}), rest, value)}
    except ConfigError as error:
        raise error.below([head]) from None


def _set_inside(node: object, path: str, value: object) -> object:
    if not path:
        return value
    if isinstance(node, str):  # a strategy written in its short form
        node = {"name": node}
    if isinstance(node, Mapping):
        return set_path(node, path, value)
    if not isinstance(node, list):
        raise ConfigError(f"cannot set {quoted(path)} inside {quoted(node)}")
    index, _, rest = path.partition(".")
    places = {str(place): place for place in range(len(node))}
    if index not in places:
        raise ConfigError(f"a list of {len(node)} has no item {quoted(index)}")
    copy, place = list(node), places[index]
    try:
        copy[place] = _set_inside(copy[place], rest, value)
    except ConfigError as error:
        raise error.below([index]) from None
    return copy
