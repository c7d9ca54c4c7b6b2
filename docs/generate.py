"""Writes what the registry, the presets and the command line already know into the pages.

A line ``{{ name argument ... }}`` in a page is replaced by what the function ``name`` returns.
MkDocs loads this file as a hook; the tests of the docs import it.
"""

import contextlib
import inspect
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import method_pages
import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tokenred.cli import app, main
from tokenred.config import StrategyConfig
from tokenred.evaluation.ablation import (
    AblationConfig,
    Published,
    RowSpec,
    Sweep,
    ablation_files,
    load_ablation,
)
from tokenred.evaluation.tasks.local import LocalTaskConfig
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.config import About, PipelineConfig, load_config
from tokenred.plugins import registry
from tokenred.registry import Entry
from tokenred.slots import slot_role
from tokenred.stages.coupling import KeepRuleConfig
from tokenred.testing.matrix import descriptions
from tokenred.testing.matrix import read as read_matrices
from tokenred.video import VideoLimits

MARKER = re.compile(r"^\{\{ *([a-z_]+)((?: +[^}]*?)?) *\}\}$", re.MULTILINE)
SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-+$", re.MULTILINE)


FLAGS = (
    "marginals",
    "couples",
    "copies",
    "merges",
    "averages",
    "static",
    "reads",
    "looks_across_frames",
    "adaptive",
    "keep",
    "exact",
    "rounding",
    "makes",
)
"""Class attributes by which strategies say what they can do; those that one has are shown."""


def on_startup(**_: Any) -> None:
    """Keep the progress bars of executed examples out of the build's output (a MkDocs event)."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in a page (a MkDocs event)."""
    return expand(markdown)


def expand(markdown: str) -> str:
    """Replace every marker of a page."""
    return MARKER.sub(lambda hit: GENERATORS[hit[1]](hit[2].strip()), markdown)


def strategies(role: str) -> str:
    """One entry for every strategy of a role: what it does, its flags, its settings."""
    return "\n\n".join(_strategy(entry) for entry in registry().entries(role))


def presets(_: str = "") -> str:
    """One entry for every preset: source, fidelity, assumptions, the whole pipeline."""
    return "\n\n".join(_preset(name) for name in registry().presets())


def ablations(_: str = "") -> str:
    """One entry for every ablation that ships: its question and its rows."""
    return "\n\n".join(_ablation(name) for name in ablation_files())


def settings(name: str) -> str:
    """The fields of one of the plain configs."""
    return field_table(CONFIGS[name])


def verbs(_: str = "") -> str:
    """One entry for every verb of the command line."""
    return "\n\n".join(_verb(path, command) for path, command in commands())


def command(arguments: str) -> str:
    """Run the command line now, and show what it prints on stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(arguments.split())
    if not out.getvalue():
        raise RuntimeError(f"`tokenred {arguments}` printed nothing")
    return f"```console\n$ tokenred {arguments}\n{out.getvalue().rstrip()}\n```"


def table(arguments: str) -> str:
    """Run an ablation now, on a few videos: ``table NAME LIMIT OPTION ...``; return its table."""
    name, limit, *options = arguments.split()
    with tempfile.TemporaryDirectory() as folder:
        words = ["ablate", name, "--limit", limit, "--out", folder, *options]
        with (
            contextlib.chdir(Path(__file__).parent / "how-to"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            main(words)
        lines = (Path(folder) / "table.md").read_text(encoding="utf-8").splitlines()
    shown = "\n".join(line for line in lines if not line.startswith("# "))
    typed = " ".join(["tokenred", "ablate", name, "--limit", limit, *options])
    return f"```console\n$ {typed}\n```\n{shown}"


def code(path: str) -> str:
    """Show a Python file that lies beside the how-to guides."""
    text = (Path(__file__).parent / "how-to" / path).read_text(encoding="utf-8")
    return f'```python title="{path}"\n{text.rstrip()}\n```'


def conformance(_: str = "") -> str:
    """The recorded conformance matrices: what each check holds, and how each family did where."""
    matrices = read_matrices(Path(__file__).parent / "reference" / "conformance.json")
    families = list(dict.fromkeys(each.family for each in matrices[-1].results))
    head = ["| check | " + " | ".join(families) + " |", "|---" * (len(families) + 1) + "|"]
    rows = []
    for check, text in descriptions().items():
        cells = []
        for family in families:
            found = [each.faults().get((family, check)) for each in matrices]
            faults = [fault for fault in found if fault is not None]
            ok = faults.count("")
            cells.append(
                "-" if not faults else "ok" if ok == len(faults) else f"{ok}/{len(faults)}"
            )
        rows.append(f"| **{check.replace('_', ' ')}**: {_cell(text)} | {' | '.join(cells)} |")
    places = [
        f"- transformers {each.transformers}, torch {each.torch}, Python {each.python}, "
        f"{each.device}"
        for each in matrices
    ]
    return "\n".join([*head, *rows, "", "It ran on:", "", *places])


GENERATORS: dict[str, Callable[[str], str]] = {
    "strategies": strategies,
    "presets": presets,
    "ablations": ablations,
    "conformance": conformance,
    "method": method_pages.page,
    "methods": method_pages.matrix,
    "settings": settings,
    "verbs": verbs,
    "command": command,
    "table": table,
    "code": code,
}
CONFIGS: dict[str, type[BaseModel]] = {
    "pipeline": PipelineConfig,
    "about": About,
    "budget": BudgetConfig,
    "keep": KeepRuleConfig,
    "ablation": AblationConfig,
    "row": RowSpec,
    "sweep": Sweep,
    "published": Published,
    "local task": LocalTaskConfig,
    "video limits": VideoLimits,
}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield (words, command) for every verb, those of a group one by one."""
    yield from _leaves("", typer.main.get_command(app))


def field_table(config: type[BaseModel]) -> str:
    """Return a table of a config's fields: name, type, default, meaning."""
    rows = [
        f"| `{name}` | {_type(field.annotation, field.metadata)} | {_default(field)} "
        f"| {_cell(field.description or '')} |"
        for name, field in config.model_fields.items()
        if name != "kind" and not (name == "name" and issubclass(config, StrategyConfig))
    ]
    head = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else "No settings."


def _strategy(entry: Entry) -> str:
    flags = {
        name: getattr(entry.factory, name)
        for name in FLAGS
        if not callable(getattr(entry.factory, name, print))
    }
    shown = ", ".join(f"`{name} = {value!r}`" for name, value in flags.items())
    parts = [
        f"### {entry.name} {{ #{anchor(entry.role, entry.name)} }}",
        f"*{entry.role} of {entry.owner}*" + (f" - {shown}" if shown else ""),
        _prose(inspect.getdoc(entry.factory) or ""),
        field_table(entry.config_class),
    ]
    return "\n\n".join(parts)


def anchor(role: str, name: str) -> str:
    """Return the fragment of an entry, such as ``coupler-sinkhorn``."""
    return f"{role} {name}".replace(" ", "-")


def _prose(doc: str) -> str:
    """Turn the sections of a numpy docstring into bold run-in heads; drop the examples' prompts."""
    text = SECTION.sub(lambda hit: f"**{hit[1]}**\n", doc)
    return text.replace("*batch", r"\*batch").replace("``", "`")


def _preset(name: str) -> str:
    _, owner = registry().presets()[name]
    config = load_config(name)
    about = config.about
    shown = {key: value for key, value in config.to_dict().items() if key not in ("name", "about")}
    lines = [
        f"### {name} {{ #preset-{name} }}",
        f"*preset of {owner}*, `config_id` `{config.config_id}`",
        about.summary,
        f"**Source.** {about.source}",
        f"**Fidelity.** {about.fidelity}",
    ]
    if about.method:
        page = f"../methods/{method_pages.slug(about.method)}.md#preset-{name}"
        lines.insert(2, f"Of the method [{about.method}]({page}), with a picture.")
    if about.differs:
        lines += ["**Where it differs.**", "\n".join(f"- {each}" for each in about.differs)]
    if about.assumed:
        lines += ["**Assumed.**", "\n".join(f"- {each}" for each in about.assumed)]
    dumped = yaml.safe_dump(shown, sort_keys=False, width=100)
    lines.append('??? note "The whole pipeline"\n\n' + _indent(f"```yaml\n{dumped}```"))
    return "\n\n".join(lines)


def _ablation(name: str) -> str:
    ablation = load_ablation(name)
    config = ablation.config
    rows = "\n".join(
        f"| {_cell(row.label)} | {row.config.name} | "
        f"{'own' if row.retention is None else f'{row.retention:.0%}'} | `{row.config_id}` |"
        for row in ablation.expand()
    )
    return "\n\n".join(
        [
            f"### {name} {{ #ablation-{name} }}",
            f"**{config.title}.** {config.question}",
            f"Run it with `tokenred ablate {name}`. Base: `{config.base}`; every row is compared "
            f"with **{ablation.reference}**.",
            f"| row | built on | retention | config_id |\n|---|---|---|---|\n{rows}",
        ]
    )


def _verb(path: str, found: Any) -> str:
    rows = []
    for parameter in found.params:
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        rows.append(f"| {names} | {_cell(getattr(parameter, 'help', '') or '')} |")
    table = "\n".join(["| option | meaning |", "|---|---|", *rows]) if rows else "No options."
    anchor_ = path.replace(" ", "-")
    text = inspect.cleandoc(found.help or "")
    return f"### tokenred {path} {{ #{anchor_} }}\n\n{text}\n\n{table}"


def _leaves(path: str, found: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(found, "commands", None)
    if children is None:
        yield path, found
        return
    for name, child in children.items():
        yield from _leaves(f"{path} {name}".strip(), child)


def _type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return a type in words, with links to the roles of strategy slots."""
    role = slot_role(None, metadata)
    if role:
        return f"[{role}](strategies.md#{anchor_of_role(role)})"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], arguments[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if annotation is NoneType:
        return "`null`"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type, arguments))}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if annotation is Any:
        return "anything"
    if origin is dict:
        return f"mapping from {_type(arguments[0])} to {_type(arguments[1])}"
    return f"`{getattr(annotation, '__name__', annotation) if not arguments else annotation}`"


def anchor_of_role(role: str) -> str:
    """Return the fragment of a role's section."""
    return f"{role}s".replace(" ", "-")


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its own defaults"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())
