"""One summary, four forms: terminal, Markdown, CSV and JSON, all with the same figures."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokenred.errors import TokenredError
from tokenred.evaluation.statistics import Estimate, PairedDifference
from tokenred.evaluation.summary import BUDGET_TOLERANCE, RowSummary, Summary

UNEQUAL = "†"
NOT_APPLICABLE = "-"


def header(summary: Summary) -> str:
    """Return the line that says what was measured."""
    kept = sorted({row.retention for row in summary.rows if row.retention is not None})[::-1]
    budgets = ", ".join(f"{100 * ratio:g} %" for ratio in kept) or "all"
    return (
        f"{summary.model} ({summary.model_revision}) on {summary.task} "
        f"({summary.task_fingerprint}): {summary.n_videos} videos, {summary.n_questions} "
        f"questions; {budgets} of the tokens; tokenred {summary.code_version}"
    )


def caption(summary: Summary) -> list[str]:
    """Return the sentences under the table that explain it to a reader who knows nothing else."""
    lines = [
        "Accuracy is the share of right answers; brackets hold 95 % intervals, from resampling "
        "whole videos.",
        f"The difference is to '{summary.reference}' at the same budget, question by question, in "
        "percentage points; bold where its interval excludes 0. p is McNemar's exact test, "
        "adjusted by Holm for all comparisons of the table; it takes questions about one video as "
        "independent, which the interval does not.",
        "Tokens are the visual tokens that the LLM reads, mean over videos, newline tokens apart; "
        "FLOPs follow Eq. 17 of the AOT paper with this model's sizes, in brackets relative to "
        "vanilla; ms is the median time of the reduction alone.",
    ]
    if any(row.unequal_budget for row in summary.rows):
        lines.append(
            f"{UNEQUAL} keeps a different number of tokens than '{summary.reference}' (by more "
            f"than {100 * BUDGET_TOLERANCE:g} %): its difference is a distance, not a ranking."
        )
    if any(row.published is not None for row in summary.rows):
        lines.append(
            f"'printed' is not measured here but copied from {summary.published_source}: another "
            "model, other questions, only the order of the rows can be compared."
        )
    return lines


def to_rich(summary: Summary) -> Group:
    """Return the table for a terminal."""
    main = Table(title=summary.title, title_justify="left", title_style="bold")
    columns = _columns(summary)
    for name, _ in columns:
        main.add_column(name, justify="left" if name == "row" else "right", no_wrap=name != "row")
    for position, row in enumerate(summary.rows):
        if position and row.retention != summary.rows[position - 1].retention:
            main.add_section()
        main.add_row(*(_rich_cell(cell(row)) for _, cell in columns))
    kinds = Table(title="Accuracy by kind of question, %", title_justify="left")
    for name in _kind_columns(summary):
        kinds.add_column(name, justify="left" if name == "row" else "right")
    for line in _kind_lines(summary):
        kinds.add_row(*map(escape, line))
    question = [Text(summary.question)] if summary.question else []
    about = [Text(""), *(Text(line, style="dim") for line in caption(summary))]
    return Group(*question, Text(header(summary), style="dim"), main, kinds, *about)


def to_markdown(summary: Summary) -> str:
    """Return the same as a Markdown page."""
    columns = _columns(summary)
    lines = [f"# {summary.title}", ""]
    lines += [summary.question, ""] if summary.question else []
    lines += [header(summary), ""]
    lines += _markdown_table(
        [name for name, _ in columns],
        [[_markdown_cell(cell(row)) for _, cell in columns] for row in summary.rows],
    )
    lines += ["", "Accuracy by kind of question, %:", ""]
    lines += _markdown_table(_kind_columns(summary), _kind_lines(summary))
    lines += ["", *(f"{line}  " for line in caption(summary))]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(summary: Summary) -> str:
    """Return one line a row with plain numbers: shares in 0-1, FLOPs, ms."""
    lines = [_flat(row) for row in summary.rows]
    text = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def to_json(summary: Summary) -> str:
    """Return everything, nested, with plain numbers."""
    return json.dumps(asdict(summary) | {"caption": caption(summary)}, indent=2) + "\n"


def write_tables(summary: Summary, folder: Path) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``, each as a whole or not at all.

    Raises
    ------
    TokenredError
        If a file cannot be written.
    """
    texts = {"md": to_markdown(summary), "csv": to_csv(summary), "json": to_json(summary)}
    for suffix, text in texts.items():
        path = folder / f"table.{suffix}"
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise TokenredError(f"cannot write {path}: {error.strerror}") from error


Cell = tuple[str, bool]
"""Text, and whether it is bold."""


def _columns(summary: Summary) -> list[tuple[str, Callable[[RowSummary], Cell]]]:
    several = len({row.retention for row in summary.rows if row.retention is not None}) > 1
    unit, name = _flops_unit(summary)
    columns: list[tuple[str, Callable[[RowSummary], Cell]]] = [("row", _label)]
    if several:
        columns.append(("budget", lambda row: (_percent(row.retention), False)))
    columns += [
        ("accuracy %", lambda row: (_interval(row.accuracy), False)),
        (f"vs {summary.reference}", _difference),
        ("p", lambda row: (_p_value(row.p_adjusted), False)),
        ("tokens", lambda row: (f"{row.n_tokens:.1f} ({100 * row.retention_ratio:.1f} %)", False)),
        (
            f"{name}FLOPs",
            lambda row: (
                f"{_digits(row.prefill_flops / unit)} ({100 * row.flops_share:.1f} %)",
                False,
            ),
        ),
        ("ms", lambda row: (f"{row.reducer_ms:.1f}", False)),
    ]
    if any(row.published is not None for row in summary.rows):
        columns.append(("printed", lambda row: (_number(row.published), False)))
    return columns


def _label(row: RowSummary) -> Cell:
    return f"{row.label} {UNEQUAL}" if row.unequal_budget else row.label, row.is_reference


def _difference(row: RowSummary) -> Cell:
    if row.is_reference:
        return "reference", False
    if row.difference is None:
        return NOT_APPLICABLE, False
    estimate = row.difference.estimate
    text = f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
    return text, estimate.excludes_zero


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return NOT_APPLICABLE
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _percent(share: float | None) -> str:
    return NOT_APPLICABLE if share is None else f"{100 * share:g} %"


def _number(value: float | None) -> str:
    return NOT_APPLICABLE if value is None else f"{value:.1f}"


def _digits(value: float) -> str:
    """Return three significant digits of a number below a thousand."""
    return f"{value:#.3g}".rstrip(".")


def _flops_unit(summary: Summary) -> tuple[float, str]:
    most = max(row.prefill_flops for row in summary.rows)
    units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
    return next(((size, name) for size, name in units if most >= size), (1.0, ""))


def _kind_columns(summary: Summary) -> list[str]:
    return ["row", *summary.chance]


def _kind_lines(summary: Summary) -> list[list[str]]:
    several = len({row.retention for row in summary.rows if row.retention is not None}) > 1
    lines = []
    for row in summary.rows:
        group = f", {_percent(row.retention)}" if several and row.retention is not None else ""
        scores = [f"{100 * row.kinds[kind].value:.1f}" for kind in summary.chance]
        lines.append([f"{_label(row)[0]}{group}", *scores])
    lines.append(["(chance)", *(f"{100 * share:.1f}" for share in summary.chance.values())])
    return lines


def _rich_cell(cell: Cell) -> str:
    text, bold = cell
    return f"[bold]{escape(text)}[/bold]" if bold else escape(text)


def _markdown_cell(cell: Cell) -> str:
    text, bold = cell
    return f"**{text}**" if bold else text


def _markdown_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = [":--", *("--:" for _ in names[1:])]
    return [
        "| " + " | ".join(part.replace("|", "\\|") for part in line) + " |"
        for line in [names, rule, *lines]
    ]


def _flat(row: RowSummary) -> dict[str, Any]:
    """Return a row with its nested figures spread over names such as ``accuracy_low``."""
    flat: dict[str, Any] = {}
    for name, value in vars(row).items():
        if isinstance(value, Estimate):
            flat |= _spread(name, value)
        elif isinstance(value, PairedDifference):
            flat |= _spread(name, value.estimate)
            flat |= {"p_value": value.p_value, "n_better": value.n_better, "n_worse": value.n_worse}
        elif name == "kinds":
            flat |= {f"accuracy_{kind}": estimate.value for kind, estimate in value.items()}
        elif name != "difference":
            flat[name] = value
    return flat


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
