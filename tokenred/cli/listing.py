"""``tokenred list``: what is registered, whose it is, and what it does in one line."""

import inspect
from typing import Annotated, Any

import typer

from tokenred.cli._common import Json, columns, emit, say
from tokenred.errors import ConfigError, TokenredError, nearest
from tokenred.registry import HARNESS_ROLES, ROLES, Entry, registry

KINDS = {f"{role}s".replace(" ", "-"): role for role in (*ROLES, *HARNESS_ROLES)} | {
    "presets": "preset",
    "ablations": "ablation",
    "models": "model",
}
"""What can be listed, in the plural, and its singular."""


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help=f"One of {', '.join(KINDS)}; default all."),
    ] = None,
    json: Json = False,
) -> None:
    """List strategies, tasks, scorers, presets, ablations and model classes with their owners."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"there is no list of '{kind}'{nearest(kind, KINDS)}")
    rows = [row for name in KINDS if kind in (None, name) for row in _rows(KINDS[name])]
    _warn_of_broken_plugins()
    if json:
        emit(rows)
    elif rows:
        print(columns([[row["kind"], row["name"], row["owner"], row["summary"]] for row in rows]))


def summary_of(entry: Entry) -> str:
    """Return the first paragraph of a strategy's docstring, on one line."""
    text = inspect.getdoc(entry.factory) or ""
    return " ".join(text.split("\n\n")[0].split())


def _rows(kind: str) -> list[dict[str, str]]:
    if kind == "preset":
        return [
            _row(kind, name, owner, _about(name))
            for name, (_, owner) in registry().presets().items()
        ]
    if kind == "ablation":
        from tokenred.evaluation.ablation import ablation_files, load_ablation

        return [
            _row(kind, name, "tokenred", load_ablation(name).config.question)
            for name in ablation_files()
        ]
    if kind == "model":
        return [
            _row(kind, name, owner, f"served by {target}")
            for name, (target, owner) in registry().adapters().items()
        ]
    return [
        _row(kind, entry.name, entry.owner, summary_of(entry)) for entry in registry().entries(kind)
    ]


def _row(kind: str, name: str, owner: str, summary: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "owner": owner, "summary": summary}


def _about(preset: str) -> str:
    from tokenred.pipeline.config import load_config

    try:
        about: Any = load_config(preset).about
    except TokenredError as error:  # one broken file must not hide the others
        return f"cannot be loaded: {error}"
    return about.summary


def _warn_of_broken_plugins() -> None:
    from tokenred.plugins import plugin_statuses

    for status in plugin_statuses():
        if status.error:
            say(f"plugin {status.name} did not load; see `tokenred plugins`")
