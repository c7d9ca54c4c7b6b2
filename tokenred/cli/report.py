"""``tokenred report``: a run as an HTML page, or as a table for a paper."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenred.cli._common import say
from tokenred.cli._talk import progress_line
from tokenred.errors import ConfigError, InputError, shown

if TYPE_CHECKING:
    from tokenred.evaluation.manifest import Run
    from tokenred.evaluation.store import Store
    from tokenred.evaluation.summary import Summary

EXAMPLES = (
    "tokenred report runs/components",
    "tokenred report runs/components --format tex --columns score,difference,n_tokens",
)
"""What its help shows."""

PLOTS = ("pdf", "svg")
FORMATS = ("html", "md", "tex", "csv", "json", *PLOTS)
CHOSEN = ("html", "md", "tex")
"""Formats whose columns can be chosen; csv and json hold all."""


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/components.")],
    format_: Annotated[
        str, typer.Option("--format", help=f"Which files, of {', '.join(FORMATS)}.")
    ] = "html",
    columns: Annotated[
        str,
        typer.Option(
            metavar="A,B,...",
            help="Columns of html, md and tex by their names in csv, such as "
            "score,difference,n_tokens; few of them fit one column of a two-column page.",
        ),
    ] = "",
    key: Annotated[
        str,
        typer.Option("--run", metavar="KEY", help="Which run, where a folder holds several."),
    ] = "",
    samples: Annotated[
        int,
        typer.Option(
            min=0, max=10**6, help="Number of samples with most disagreement on the page."
        ),
    ] = 24,
    out: Annotated[Path | None, typer.Option(help="Output folder; the run's by default.")] = None,
) -> None:
    """Write RUN/report.html: table, plots and single answers in one file that opens offline.

    pdf and svg are the plots, each in a file of its own, such as report-forest.pdf.

    Needs neither the model nor the network: only statistics are computed.
    """
    from tokenred.evaluation.files import write_whole
    from tokenred.evaluation.manifest import STORE, read_run
    from tokenred.evaluation.store import Store
    from tokenred.evaluation.summary import n_steps, summarise

    formats = parse_formats(format_)
    keys = parse_columns(columns, formats)
    manifest = read_run(run, key)
    _tell_of_others(run, manifest)
    if not os.path.exists(run / STORE):
        raise InputError(f"{shown(run)} holds no results; `tokenred ablate` makes them")
    folder = out or run
    folder.mkdir(parents=True, exist_ok=True)
    with Store(run / STORE) as store:
        with progress_line("statistics", n_steps(manifest)) as step:
            summary = summarise(manifest, store, step)
        say(
            f"{len(summary.rows)} rows on {summary.n_samples} samples; writing {', '.join(formats)}"
        )
        for name in formats:
            files = (
                _plots(name, summary)
                if name in PLOTS
                else {f"report.{name}": _text(name, manifest, summary, store, run, samples, keys)}
            )
            for file, content in files.items():
                write_whole(folder / file, content)
                print(folder / file)


def _tell_of_others(folder: Path, shown: Run) -> None:
    from tokenred.evaluation.manifest import read_runs, run_key

    for key, other in read_runs(folder).items():
        if key != run_key(shown):
            size = f"{len(other.rows)} rows on {len(other.sample_ids)} samples"
            when = other.environment.get("started", "at an unknown time")
            say(f"also here: --run {key}, {size} of {other.task_name}, {when}")


def parse_formats(text: str) -> list[str]:
    """Read ``html,tex``."""
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in chosen if name not in FORMATS]
    if unknown or not chosen:
        raise ConfigError(f"expected some of {', '.join(FORMATS)}, got '{text}'", ["--format"])
    return list(dict.fromkeys(chosen))


def parse_columns(text: str, formats: Sequence[str]) -> list[str]:
    """Read ``score,n_tokens``; empty for those of each format."""
    keys = [part.strip() for part in text.split(",") if part.strip()]
    if keys and not set(formats) & set(CHOSEN):
        raise ConfigError(f"only {', '.join(CHOSEN)} have columns to choose", ["--columns"])
    return keys


def _plots(form: str, summary: Summary) -> dict[str, str | bytes]:
    """Return the files of the plots by name."""
    from tokenred.report.plots import plots

    return {f"report-{plot.name}.{form}": plot.file(form) for plot in plots(summary)}


def _text(
    name: str,
    manifest: Run,
    summary: Summary,
    store: Store,
    folder: Path,
    n_shown: int,
    keys: Sequence[str],
) -> str:
    from tokenred.report import table

    if name == "html":
        from tokenred.report.gather import gather_explorer, gather_provenance
        from tokenred.report.html import to_html

        provenance = gather_provenance(manifest, folder, len(manifest.sample_ids))
        explorer = gather_explorer(manifest, summary, store, n_shown) if n_shown else None
        return to_html(summary, provenance, explorer, keys)
    if name == "tex":
        from tokenred.report.latex import to_latex

        return to_latex(summary, keys)
    if name == "md":
        return table.to_markdown(summary, keys)
    return {"csv": table.to_csv, "json": table.to_json}[name](summary)
