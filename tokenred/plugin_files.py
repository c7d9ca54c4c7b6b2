"""Plugins in a single file, without a package: ``--plugin ./mine.py``."""

import hashlib
import inspect
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tokenred.errors import PluginError, TokenredError, told
from tokenred.plugins import PluginStatus, loaded, register_plugin

PREFIX = "tokenred_file_"
"""How the module of a file begins, so that it hides no other of the same name."""

_sources: dict[Path, bytes] = {}


def plugin_files() -> dict[Path, bytes]:
    """Return what every loaded file held when it was loaded, for processes that shall load it."""
    return dict(_sources)


def load_plugin_file(path: str | Path) -> None:
    """Make known what a Python file registers by hooks or with ``tokenred.register``.

    A file that is loaded already is loaded again, with what it holds now.

    Raises
    ------
    PluginError
        If there is no such file, it cannot be run, it registers nothing, or a name is taken.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise PluginError(f"a plugin in one file is a Python file (.py), got '{path}'")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PluginError(f"plugin file {path} cannot be read: {error.strerror}") from None
    load_plugin_source(path.resolve(), source)


def load_plugin_source(path: Path, source: bytes) -> None:
    """Do the same with what a file holds, which need not be there.

    Raises
    ------
    PluginError
        As above.
    """
    registry, statuses = loaded()
    for other in _sources:
        if other.name == path.name and other != path:
            raise PluginError(f"{path} is called like {other}, which is loaded; rename one of them")
    module = ModuleType(_module_name(path))
    module.__file__ = str(path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # classes are looked up there when they are pickled
    try:
        with registry.all_or_nothing():
            registry.forget(path.name)
            _run(source, path, module)
            register_plugin(registry, module, path.name, path.parent)
            if not registry.owned(path.name):
                raise PluginError(f"{path} registers nothing; {_advice(module)}")
    except BaseException:
        sys.modules.pop(module.__name__)
        if before is not None:
            sys.modules[module.__name__] = before
        raise
    _sources[path] = source
    statuses[:] = [each for each in statuses if each.file != str(path)]
    statuses.append(PluginStatus(path.stem, path.name, content_hash(source), file=str(path)))


def unload_plugin_file(path: str | Path) -> None:
    """Forget what a file has registered."""
    path = Path(path).resolve()
    registry, statuses = loaded()
    if _sources.pop(path, None) is not None:
        registry.forget(path.name)
        sys.modules.pop(_module_name(path), None)
        statuses[:] = [each for each in statuses if each.file != str(path)]


def _module_name(path: Path) -> str:
    return PREFIX + re.sub(r"\W", "_", path.stem)


def content_hash(source: bytes) -> str:
    """Return 8 hex digits by which an edited file is told apart."""
    return hashlib.sha256(source).hexdigest()[:8]


def _run(source: bytes, path: Path, module: ModuleType) -> None:
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except TokenredError as error:
        raise PluginError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # a stranger's code may raise anything
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        at = f" (line {line})" if line else ""
        raise PluginError(f"plugin file {path} cannot be loaded: {told(error)}{at}") from error


def _advice(module: ModuleType) -> str:
    """Return what to do about a file that registers nothing."""
    for name, function in vars(module).items():
        if name.startswith("register_") and inspect.isfunction(function):
            return f"put @tokenred.hookimpl above '{name}', and let it call register(...)"
    return 'put @tokenred.register("name") above a class, or mark a hook with @tokenred.hookimpl'
