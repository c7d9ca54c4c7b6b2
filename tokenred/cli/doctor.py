"""``tokenred doctor``: check the installation."""

import importlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokenred.cli._common import Json, align_columns, emit, say
from tokenred.errors import PluginError

if TYPE_CHECKING:
    from tokenred.plugins import PluginStatus

EXAMPLES = (
    "tokenred doctor",
    "tokenred doctor --long",
)
"""What its help shows."""

EXTRAS = {
    "hf": ("transformers", "safetensors", "tokenizers"),
    "pot": ("ot",),
    "video": ("av", "numpy"),
    "embedded": ("sklearn", "PIL"),
    "stats": ("scipy", "numpy"),
    "report": ("jinja2", "matplotlib"),
    "export": ("pyarrow",),
    "ray": ("ray",),
    "methods": ("tokenred_methods",),
}
"""Optional extra -> the modules that it installs."""
CHECK_FAILED = 4
LMMS_GROUP = "lmms_eval.models"
LMMS_TESTED = ("0.7.3", "0.8")
"""The oldest lmms-eval that was tried, and the first one that was not."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``missing`` means an optional part, ``failed`` an error."""

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str


def doctor(
    long: Annotated[
        bool, typer.Option("--long", help="Also show what is well, and its versions.")
    ] = False,
    json: Json = False,
) -> None:
    """Check versions, optional extras, plugins, presets and the embedded model.

    Shows what is missing or broken. Exits with 4 if something that is installed does not work.
    """
    found = list(_findings())
    shown = [finding for finding in found if long or finding.state != "ok"]
    if json:
        emit([asdict(finding) for finding in found])
    elif shown:
        print(align_columns([[finding.state, finding.name, finding.detail] for finding in shown]))
    say(f"{sum(finding.state == 'ok' for finding in found)} of {len(found)} checks are well")
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
    yield _native()
    yield from plugin_findings()
    yield from lmms_findings()
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


def _native() -> Finding:
    from tokenred.cli.native import native_status

    found = native_status()
    if found.state == "built":
        return Finding("native kernels", "ok", found.path)
    return Finding(
        "native kernels", "failed" if found.state == "broken" else "missing", found.detail
    )


def plugin_findings() -> Iterator[Finding]:
    """Check that every plugin loads and that its classes can be imported."""
    from tokenred.plugins import plugin_statuses

    for status in plugin_statuses():
        yield _tried(f"plugin {status.name}", partial(_import_plugin, status))


def _import_plugin(status: "PluginStatus") -> str:
    from tokenred.plugins import registry
    from tokenred.registry import HARNESS_ROLES

    if status.error:
        raise PluginError(status.error)
    for role in (None, *HARNESS_ROLES):
        for entry in registry().entries(role):
            if entry.owner == status.distribution:
                _ = entry.factory, entry.config_class
    return f"{status.distribution} {status.version}"


def lmms_findings() -> Iterator[Finding]:
    """Check that lmms-eval is installed, can be imported, and finds the model ``tokenred``.

    It only logs a broken entry point, and its import fails if torchvision does not match torch.
    """
    from importlib.metadata import PackageNotFoundError, version

    from packaging.version import Version

    try:
        installed = version("lmms-eval")
    except PackageNotFoundError:
        yield Finding("lmms-eval", "missing", "pip install 'tokenred[lmms]'")
        return
    oldest, below = LMMS_TESTED
    tested = Version(oldest) <= Version(installed) < Version(below)
    untested = f"; tested are {oldest} to below {below}"
    yield Finding("lmms-eval", "ok", installed + ("" if tested else untested))
    yield _tried("torchvision", _import_torchvision)
    yield _tried("lmms-eval model", _resolve_lmms_model)


def _import_torchvision() -> str:
    import torch

    try:
        torchvision = importlib.import_module("torchvision")
    except RuntimeError as error:
        raise RuntimeError(
            f"torchvision does not match torch {torch.__version__}: install both from one index "
            f"({str(error).splitlines()[0]})"
        ) from error
    return torchvision.__version__


def _resolve_lmms_model() -> str:
    from importlib.metadata import entry_points

    from tokenred.integrations import LMMS_MODEL

    if LMMS_MODEL not in entry_points(group=LMMS_GROUP).names:
        raise RuntimeError(f"no entry point '{LMMS_MODEL}' in '{LMMS_GROUP}': reinstall tokenred")
    try:
        registry = importlib.import_module("lmms_eval.models").MODEL_REGISTRY_V2
    except ImportError as error:
        raise RuntimeError(f"lmms-eval cannot be imported: {error}") from error
    found = registry.get_model_class(LMMS_MODEL)
    if not found.__module__.startswith("tokenred."):
        raise RuntimeError(f"'{LMMS_MODEL}' is {found.__module__}.{found.__name__}, not tokenred's")
    return f"--model {LMMS_MODEL} is {found.__module__}.{found.__name__}"


def _tried(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, "ok", check())
    except ImportError as error:
        return Finding(name, "missing", f"needs {error.name}")
    except Exception as error:  # whatever is wrong is what the report is for
        return Finding(name, "failed", str(error).splitlines()[0] if str(error) else repr(error))


def _load_presets() -> str:
    from tokenred.pipeline import load_pipeline
    from tokenred.plugins import registry

    names = list(registry().presets())
    for name in names:
        load_pipeline(name)
    return f"{len(names)} load"


def _load_model() -> str:
    from tokenred.embedded import load_embedded_model, load_tokenizer

    model, tokenizer = load_embedded_model(), load_tokenizer()
    return f"{model.num_parameters() / 1e6:.2f} M parameters, {len(tokenizer)} words"
