"""``tokenred ablate``: what each part of a pipeline is worth, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenred.cli._common import Json, Overrides, emit, parse_overrides, say
from tokenred.errors import ConfigError, TokenredError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tokenred.evaluation.ablation import Row
    from tokenred.evaluation.model import EvaluatedModel
    from tokenred.evaluation.preview import Preview
    from tokenred.evaluation.runner import PlannedRow
    from tokenred.evaluation.store import Store
    from tokenred.evaluation.summary import Summary
    from tokenred.evaluation.task import Task

DEFAULT = "components"
DEFAULT_LIMIT = 200
PIPE_WIDTH = 140
"""Columns of a table that goes into a pipe or a file, where there is no terminal to ask."""


def ablate(
    what: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="An ablation file, its name, or a preset.")
    ] = DEFAULT,
    retention: Annotated[
        str, typer.Option(help="Token budgets, such as 0.25,0.10; the file's own by default.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Videos to answer about.")] = DEFAULT_LIMIT,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results and tables; runs/NAME by default.")
    ] = None,
    set_: Overrides = None,
    json: Json = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute these rows again instead of resuming.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try every row on one video and show what would run.")
    ] = False,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; the embedded model is too small for two.")
    ] = 1,
) -> None:
    """Answer questions about videos under every row of an ablation, and compare the rows.

    Results go to OUT/results.sqlite as they arrive. Stop at any time; the same command resumes.
    """
    import torch
    from transformers.utils import logging

    from tokenred.evaluation.ablation import load_ablation
    from tokenred.evaluation.model import EmbeddedModel
    from tokenred.evaluation.preview import preview
    from tokenred.evaluation.store import Store
    from tokenred.evaluation.summary import summarise
    from tokenred.evaluation.task import EmbeddedTask
    from tokenred.report.table import write_tables

    ablation = load_ablation(what, parse_overrides(set_))
    rows = ablation.expand(parse_retention(retention))
    torch.set_num_threads(threads)
    folder = out or Path("runs") / ablation.config.name
    task: Task = EmbeddedTask()
    logging.disable_progress_bar()
    model: EvaluatedModel = EmbeddedModel()
    limit = min(limit, task.n_samples)
    path = folder / "results.sqlite"
    if dry_run:
        _show_plan(preview(rows, task, model, path, limit), limit, json)
        return
    with Store(path) as store:
        planned = _plan(rows, task, model, store, fresh)
        _run(planned, task, model, store, limit)
        summary = summarise(ablation, planned, task, model, store, limit)
    write_tables(summary, folder)
    _print_summary(summary, json)


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
            f"expected ratios in (0, 1] such as 0.25,0.10, got '{text}'", ["--retention"]
        )
    return list(dict.fromkeys(ratios))


def _plan(
    rows: Sequence[Row], task: Task, model: EvaluatedModel, store: Store, fresh: bool
) -> list[PlannedRow]:
    from tokenred.evaluation.runner import plan

    planned = plan(rows, task, model, store)
    if fresh:
        for cell in planned:
            store.forget(cell.origin)
    return planned


def _run(
    planned: Sequence[PlannedRow], task: Task, model: EvaluatedModel, store: Store, limit: int
) -> None:
    """Run under a progress bar on stderr; say how to go on when the user stops it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from tokenred.evaluation.runner import run

    say(f"{len(planned)} rows on {limit} videos; results in {store.path}")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        videos = bar.add_task("videos", total=limit)
        try:
            done = run(
                planned,
                task,
                model,
                store,
                limit,
                on_progress=lambda progress: bar.update(videos, completed=progress.samples_done),
            )
        except KeyboardInterrupt:
            raise TokenredError(
                f"stopped; what was computed is in {store.path}, the same command resumes"
            ) from None
    say(f"{done.cells_computed} results computed, {done.cells_reused} found in the store")


def _show_plan(previews: Sequence[Preview], limit: int, as_json: bool) -> None:
    """Print what each row keeps of the first video, and how much is stored already."""
    from dataclasses import asdict

    from rich.table import Table

    lines = [asdict(preview) for preview in previews]
    if as_json:
        emit(lines)
        return
    table = Table(title=f"What would run on {limit} videos; tokens are those of the first")
    for name in lines[0]:
        table.add_column(name, justify="left" if name == "row" else "right")
    for line in lines:
        table.add_row(*(_plain(value) for value in line.values()))
    _console().print(table)


def _plain(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def _print_summary(summary: Summary, as_json: bool) -> None:
    from tokenred.report.table import to_json, to_rich

    if as_json:
        print(to_json(summary), end="")
    else:
        console = _console()
        console.print(to_rich(summary, console.width))


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)
