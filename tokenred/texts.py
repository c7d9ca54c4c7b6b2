"""Read what users write, YAML and JSON: every fault is one sentence with its line and path.

A reader of its own stands between a text and PyYAML or ``json``, because both take what no config
means: a key that stands twice, an alias that grows without end, thousands of levels, NaN, objects
of Python. Plain words of YAML are read as YAML 1.2 reads them, so ``no``, ``on``, ``010``, ``1:30``
and ``2024-01-01`` are text.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NoReturn

from tokenred.errors import ConfigError, InputError, quoted, shown

MAX_BYTES = 2**20
"""Longest text of settings."""
MAX_DEPTH = 32
MAX_NODES = 50_000
"""Most values in one text, those that aliases repeat included."""
LONGEST_NUMBER = 64

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?"
)
_NOT_FINITE = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_WORDS |= {each: value for word, value in _WORDS.items() for each in (word.title(), word.upper())}


def check_file(path: Path, wanted: str) -> None:
    """Refuse what is no regular file with something in it.

    Parameters
    ----------
    wanted : what was expected, such as ``a video file``

    Raises
    ------
    InputError
        If it is not there, empty, a directory or a device, or has a name that cannot be.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{shown(path)} does not exist") from None
    except (OSError, ValueError) as error:
        raise cannot_open(path, error) from None
    if S_ISDIR(found.st_mode):
        raise InputError(f"{shown(path)} is a directory, not {wanted}")
    if not S_ISREG(found.st_mode):
        raise InputError(f"{shown(path)} is a device or a pipe, not {wanted}")
    if found.st_size == 0:
        raise InputError(f"{shown(path)} is empty")


def cannot_open(path: Path, error: Exception) -> InputError:
    """Return the error of a file that the system does not open."""
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{shown(path)} cannot be opened: {reason.lower()}")


def read_text(path: Path, wanted: str = "a text file", limit: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Raises
    ------
    InputError
        If it is no regular file with something in it, longer than ``limit`` bytes, or no UTF-8.
    """
    check_file(path, wanted)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise cannot_open(path, error) from None
    if len(data) > limit:
        raise InputError(f"{shown(path)} is too long: the limit is {limit} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{shown(path)} cannot be read: it is not UTF-8 text")
    return text


def parse_yaml(text: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """Return the data of a YAML text, and the line of every path in it.

    Raises
    ------
    ConfigError
        If it is not valid or means nothing that settings are made of; with line and path.
    """
    _check_text(text, (), "")
    if len(text) > MAX_BYTES:
        raise ConfigError(f"too long: the limit is {MAX_BYTES} characters")
    return _Yaml(text).read()


class _Yaml:
    """Builds plain data from the events of a YAML text, in one pass."""

    def __init__(self, text: str) -> None:
        import yaml  # the help of the command line does without

        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C is ten times as fast
        self._yaml = yaml
        self._events: Iterator[Any] = yaml.parse(text, loader)
        self._lines: dict[tuple[str, ...], int] = {}
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # value, nodes and levels in it
        self._n_nodes = 0
        self._last_line = len(text.splitlines())

    def read(self) -> tuple[Any, dict[tuple[str, ...], int]]:
        """Return the data and the lines."""
        error_class = self._yaml.YAMLError
        data = None
        try:
            for number, event in enumerate(self._documents()):
                if number:
                    self._fail("several YAML documents in one text", event, ())
                data, _ = self._node(next(self._events), (), 1)
        except error_class as error:
            mark = getattr(error, "problem_mark", None)
            found: Any = error
            reason = getattr(found, "problem", None) or getattr(found, "reason", "") or str(error)
            where = f"line {min(mark.line + 1, self._last_line)}" if mark else ""
            raise ConfigError(f"not valid YAML: {reason}", where=where) from None
        return data, self._lines

    def _documents(self) -> Iterator[Any]:
        for event in self._events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                yield event

    def _node(self, event: Any, path: tuple[str, ...], depth: int) -> tuple[Any, int]:
        """Return the value that begins with an event, and the number of levels in it."""
        yaml = self._yaml
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, path, depth)
        if event.tag is not None:
            self._fail(f"a tag, {quoted(event.tag)}; write plain values", event, path)
        if depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} levels", event, path)
        before = self._n_nodes
        self._count(1, event, path)
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value, levels = self._scalar(event, path), 0
        elif isinstance(event, yaml.SequenceStartEvent):
            value, levels = self._sequence(path, depth)
        else:
            value, levels = self._mapping(path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = value, self._n_nodes - before, levels
        return value, levels

    def _alias(self, event: Any, path: tuple[str, ...], depth: int) -> tuple[Any, int]:
        if event.anchor not in self._anchors:
            self._fail(f"nothing before it is called {quoted(event.anchor)}", event, path)
        value, n_nodes, levels = self._anchors[event.anchor]
        self._count(n_nodes, event, path)
        if depth + levels > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} levels", event, path)
        return value, levels

    def _count(self, n_nodes: int, event: Any, path: tuple[str, ...]) -> None:
        self._n_nodes += n_nodes
        if self._n_nodes > MAX_NODES:
            self._fail(f"more than {MAX_NODES} values, repeated ones included", event, path)

    def _sequence(self, path: tuple[str, ...], depth: int) -> tuple[list[Any], int]:
        found: list[Any] = []
        deepest = 0
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            inner = (*path, str(len(found)))
            self._lines[inner] = event.start_mark.line + 1
            value, levels = self._node(event, inner, depth + 1)
            found.append(value)
            deepest = max(deepest, levels)
        return found, deepest + 1

    def _mapping(self, path: tuple[str, ...], depth: int) -> tuple[dict[Any, Any], int]:
        found: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        taken: set[str] = set()
        deepest = 0
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            key, merges = self._key(event, path), _is_merge(event)
            if key in found or str(key) in taken:
                self._fail(f"the key {quoted(key)} stands twice", event, path)
            inner = (*path, str(key))
            self._lines[inner] = event.start_mark.line + 1
            value, levels = self._node(next(self._events), inner, depth + 1)
            deepest = max(deepest, levels)
            taken.add(str(key))
            if not merges:
                found[key] = value
                continue
            for each in value[::-1] if isinstance(value, list) else [value]:
                if not isinstance(each, dict):
                    self._fail("'<<' merges mappings", event, path)
                merged.update(each)
        return {**merged, **found}, deepest + 1

    def _key(self, event: Any, path: tuple[str, ...]) -> str | int | float:
        if isinstance(event, self._yaml.AliasEvent | self._yaml.ScalarEvent):
            key, _ = self._node(event, path, 0)
            if isinstance(key, str | int | float) and not isinstance(key, bool):
                return key
        self._fail("a key is a text or a number; put others in quotes", event, path)

    def _scalar(self, event: Any, path: tuple[str, ...]) -> Any:
        text: str = event.value
        if not event.implicit[0]:  # in quotes, or a block of text
            _check_text(text, path, f"line {event.start_mark.line + 1}")
            return text
        if text in _WORDS:
            return _WORDS[text]
        try:
            if _INT.fullmatch(text):
                return _int(text)
            if _FLOAT.fullmatch(text):
                return _float(text)
            if _NOT_FINITE.fullmatch(text):
                raise ConfigError(f"{quoted(text)} is no finite number")
        except ConfigError as error:
            self._fail(error.message, event, path)
        return text

    def _fail(self, message: str, event: Any, path: tuple[str, ...]) -> NoReturn:
        raise ConfigError(message, path, where=f"line {event.start_mark.line + 1}")


def _is_merge(event: Any) -> bool:
    return getattr(event, "value", None) == "<<" and event.implicit[0]


def parse_json(
    text: str, where: str = "line {}", limit: int = MAX_BYTES, finite: bool = True
) -> Any:
    """Return the data of a JSON text.

    Parameters
    ----------
    where : what an error says of the line that JSON is not valid in; nothing for a line of a file
    finite : refuse NaN and infinity

    Raises
    ------
    ConfigError
        If it is not valid, a key stands twice, or it is too deep or too long.
    """
    if len(text) > limit:
        raise ConfigError(f"too long: the limit is {limit} characters")
    try:
        data = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_float if finite else float,
            parse_float=_float if finite else float,
            parse_int=_int,
        )
        _check_json(data)
    except json.JSONDecodeError as error:
        line = where.format(error.lineno)
        raise ConfigError(f"not valid JSON: {error.msg}", where=line) from None
    except RecursionError:
        raise ConfigError(f"more than {MAX_DEPTH} levels") from None
    return data


def read_json(path: Path, limit: int = MAX_BYTES, finite: bool = True) -> dict[str, Any]:
    """Return the mapping that a JSON file holds.

    Raises
    ------
    InputError
        If the file cannot be read or holds something else.
    """
    try:
        data = parse_json(read_text(path, "a JSON file", limit), limit=limit, finite=finite)
    except ConfigError as error:
        raise InputError(str(error.at(shown(path)))) from None
    if not isinstance(data, dict):
        raise InputError(f"{shown(path)} holds no mapping, but {quoted(data)}")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ConfigError(
            f"the key {quoted(next(k for k in keys if keys.count(k) > 1))} stands twice"
        )
    return found


def _check_json(data: object) -> None:
    levels: list[tuple[object, tuple[str, ...]]] = [(data, ())]
    while levels:
        value, path = levels.pop()
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"more than {MAX_DEPTH} levels", path)
        if isinstance(value, str):
            _check_text(value, path, "")
        elif isinstance(value, list):
            levels += [(each, (*path, str(i))) for i, each in enumerate(value)]
        elif isinstance(value, dict):
            for key, each in value.items():
                _check_text(key, path, "")
                levels.append((each, (*path, key)))


def _check_text(text: str, path: tuple[str, ...], where: str) -> None:
    if "\0" in text:
        raise ConfigError("a text with a null character", path, where=where)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError("a text that is not UTF-8", path, where=where) from None


def _int(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ConfigError(f"a number of {len(text)} characters")
    return int(text.replace("_", ""), 0)


def _float(text: str) -> float:
    if len(text) > LONGEST_NUMBER:
        raise ConfigError(f"a number of {len(text)} characters")
    number = float(text.replace("_", ""))
    if not math.isfinite(number):
        raise ConfigError(f"{quoted(text)} is no finite number")
    return number
