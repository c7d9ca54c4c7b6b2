"""Pipelines and ablations as the data of their YAML files, not yet checked."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenred.errors import ConfigError
from tokenred.plugins import registry

SUFFIXES = (".yaml", ".yml")


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
    import yaml  # the help of the command line does without

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold a mapping")
    return data


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
    base = str(data.pop("extends"))
    if base.endswith(SUFFIXES) and not isinstance(source, Mapping):
        base = str((Path(source).parent / base).resolve())
    if base in _seen:
        raise ConfigError(f"'{base}' extends itself", ["extends"])
    changes = data.pop("set", None) or {}
    if not isinstance(changes, Mapping):
        raise ConfigError(f"expected dotted paths and values, got {changes!r}", ["set"])
    result = {**read_pipeline(base, (*_seen, base)), **data}
    for path, value in changes.items():
        result = set_path(result, path, value)
    return result


def _read_pipeline_file(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix not in SUFFIXES:
        path = registry().preset(str(source))
    return {"name": path.stem, **read_yaml(path)}


def set_path(data: Mapping[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of ``data`` with the dotted ``path`` set; a scalar on the way is an error."""
    head, _, rest = path.partition(".")
    if not head or path.endswith("."):
        raise ConfigError(f"an empty part in the dotted path '{path}'")
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
        raise ConfigError(f"cannot set '{path}' inside {node!r}")
    index, _, rest = path.partition(".")
    if not index.isdigit() or int(index) >= len(node):
        raise ConfigError(f"a list of {len(node)} has no item '{index}'")
    copy = list(node)
    try:
        copy[int(index)] = _set_inside(copy[int(index)], rest, value)
    except ConfigError as error:
        raise error.below([index]) from None
    return copy
