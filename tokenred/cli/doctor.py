"""``tokenred doctor``: is everything in place?"""

import importlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import typer

from tokenred.cli._common import Json, columns, emit, say

EXTRAS = {
    "hf": ("transformers", "safetensors", "tokenizers"),
    "pot": ("ot",),
    "video": ("av", "numpy"),
    "embedded": ("sklearn", "PIL"),
    "stats": ("scipy", "numpy"),
}
"""Optional extra -> the modules that it installs."""
CHECK_FAILED = 4


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``missing`` is optional and no fault, ``failed`` is one."""

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str


def doctor(json: Json = False) -> None:
    """Check versions, optional extras, plugins, presets and the embedded model.

    Exits with 4 if something that is installed does not work.
    """
    found = list(_findings())
    if json:
        emit([asdict(finding) for finding in found])
    else:
        print(columns([[finding.state, finding.name, finding.detail] for finding in found]))
    failed = sum(finding.state == "failed" for finding in found)
    if failed:
        say(f"{failed} of {len(found)} checks failed")
        raise typer.Exit(CHECK_FAILED)


def _findings() -> Iterator[Finding]:
    import torch

    from tokenred import __version__

    yield Finding("tokenred", "ok", __version__)
    yield Finding("python", "ok", platform.python_version())
    yield Finding("torch", "ok", f"{torch.__version__}, CUDA {torch.cuda.is_available()}")
    for extra, modules in EXTRAS.items():
        yield _extra(extra, modules)
    yield from _plugins()
    yield _tried("presets", _load_presets)
    yield _tried("embedded model", _load_model)


def _extra(name: str, modules: tuple[str, ...]) -> Finding:
    found = []
    for module in modules:
        try:
            version = getattr(importlib.import_module(module), "__version__", "")
        except ImportError:
            return Finding(f"extra {name}", "missing", f"pip install 'tokenred[{name}]'")
        found.append(f"{module} {version}".strip())
    return Finding(f"extra {name}", "ok", ", ".join(found))


def _plugins() -> Iterator[Finding]:
    from tokenred.plugins import plugin_statuses

    for status in plugin_statuses():
        detail = status.error or f"{status.distribution} {status.version}"
        yield Finding(f"plugin {status.name}", "failed" if status.error else "ok", detail)


def _tried(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", check())
    except ImportError as error:
        return Finding(name, "missing", f"needs {error.name}")
    except Exception as error:  # whatever is wrong is what the report is for
        return Finding(name, "failed", str(error).splitlines()[0] if str(error) else repr(error))


def _load_presets() -> str:
    from tokenred.pipeline import load_pipeline
    from tokenred.registry import registry

    names = list(registry().presets())
    for name in names:
        load_pipeline(name)
    return f"{len(names)} load"


def _load_model() -> str:
    from tokenred.embedded import load_model, load_tokenizer

    model, tokenizer = load_model(), load_tokenizer()
    return f"{model.num_parameters() / 1e6:.2f} M parameters, {len(tokenizer)} words"
