"""A summary as terminal table, Markdown, CSV and JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokenred.evaluation.files import write_whole
from tokenred.evaluation.summary import BUDGET_TOLERANCE, Best, RowSummary, Summary
from tokenred.report.columns import (
    MEANINGS,
    Column,
    choose_columns,
    columns,
    full_label,
    percent,
    points,
    points_interval,
    retentions,
)
from tokenred.report.text import csv_text, dim, new_table

UNEQUAL = "†"


def header(summary: Summary) -> str:
    """Return model, task and budgets in words."""
    budgets = ", ".join(f"{100 * ratio:g} %" for ratio in retentions(summary)) or "all"
    return (
        f"{summary.model} ({summary.model_revision}) on {summary.task} "
        f"({summary.task_fingerprint}): {summary.n_samples} videos, {summary.n_questions} "
        f"questions; {budgets} of the tokens; tokenred {summary.code_version}"
    )


def caption(summary: Summary) -> list[str]:
    """Return the sentences that explain the table."""
    lines = [
        f"{summary.measure.capitalize()} is {MEANINGS[summary.measure]}; brackets hold 95 % "
        "intervals, clustered by video.",
        f"The difference is to '{summary.reference}' at the same budget, question by question, in "
        "percentage points; bold where its interval excludes 0. p is a sign-flip test over videos, "
        "adjusted by Holm for all comparisons of the table. p alone is adjusted: intervals, and "
        "bold with them, are of one row at a time.",
        "Tokens are the visual tokens that enter the LLM, mean over videos, newline tokens apart; "
        "FLOPs follow Eq. 17 of the AOT paper with what enters each layer, in brackets relative to "
        "vanilla; reducer ms is the median wall clock of the reduction alone during the run, "
        "without warm-up; `tokenred bench` measures.",
    ]
    if summary.measure == "agreement":
        lines.insert(0, "No question has a label.")
    elif any(row.agreement is not None for row in summary.rows):
        lines.append(
            "Agreement is the share of answers that are those of the unreduced model; KL is how "
            "far the distribution of the next token lies from its, mean in nats."
        )
    lines += [_best_line(best, summary.reference) for best in summary.best]
    compared = [row.difference for row in summary.rows if row.difference is not None]
    if any(each.minimum_detectable is None for each in compared):
        lines.append(
            "With so few videos, one comparison or more would show no difference, however large, "
            "in four of five runs; 'detectable' has a dash there."
        )
    if any(row.unequal_budget for row in summary.rows):
        lines.append(
            f"{UNEQUAL} keeps a different number of tokens than '{summary.reference}' (by more "
            f"than {100 * BUDGET_TOLERANCE:g} %): its difference is a distance, not a ranking."
        )
    if any(row.published is not None for row in summary.rows):
        lines.append(
            f"'printed' is copied from {summary.published_source}: another model, other questions; "
            "compare only the order of the rows."
        )
    if summary.failures:
        samples = {sample for _, sample, _ in summary.failures}
        row, sample, reason = summary.failures[0]
        lines.append(
            f"{len(samples)} videos are left out of all rows, as a row failed on them; "
            f"the first: row '{row}' on '{sample}': {reason}"
        )
    if summary.mixed:
        others = ", ".join(summary.other_versions)
        lines.append(f"Some results are of other versions of the code: {others} (--allow-mixed).")
    return lines


def _best_line(best: Best, reference: str) -> str:
    """Return the sentence that names the best row of one budget."""
    against = ""
    if best.difference is not None:
        found = best.difference.estimate
        against = f", {points(found)} {points_interval(found)} points against '{reference}'"
    return (
        f"Best at {100 * best.retention:g} %: '{best.label}', chosen among {best.n_rows} rows on "
        f"{best.n_choosing} videos; on the {best.n_measuring} others it has "
        f"{percent(best.score)}{against}. There {best.n_close} of the other rows cannot be "
        "told from it (paired 95 % interval, not adjusted for their number)."
    )


def to_rich(summary: Summary, width: int) -> Group:
    """Return the table for a terminal of ``width`` columns, split in two if it is too wide."""
    chosen = columns(summary, "brief")
    tables = [_rich_table(summary, summary.title, chosen)]
    if _narrowest(tables[0]) > width:
        parts = {"score": summary.title, "cost": "Cost"}
        tables = [
            _rich_table(summary, title, [c for c in chosen if c.part in ("both", part)])
            for part, title in parts.items()
        ]
    kinds = new_table(_kind_title(summary), _kind_columns(summary))
    for line in _kind_lines(summary):
        kinds.add_row(*map(escape, line))
    question = [Text(summary.question)] if summary.question else []
    return Group(*question, *dim([header(summary)]), *tables, kinds, *dim(caption(summary)))


def to_markdown(summary: Summary, keys: Sequence[str] = ()) -> str:
    """Return the table as a Markdown page, with the columns of these keys if there are any."""
    chosen = choose_columns(summary, keys, "brief")
    lines = [f"# {summary.title}", ""]
    lines += [summary.question, ""] if summary.question else []
    lines += [header(summary), ""]
    lines += _markdown_table(
        [column.name for column in chosen],
        [[_bold_markdown(_text(column, row)) for column in chosen] for row in summary.rows],
    )
    lines += ["", f"{_kind_title(summary)}:", ""]
    lines += _markdown_table(_kind_columns(summary), _kind_lines(summary))
    lines += ["", *(f"{line}  " for line in caption(summary))]
    return "\n".join(lines).rstrip() + "\n"


def to_csv(summary: Summary) -> str:
    """Return one line a row with plain numbers: shares in 0-1, FLOPs, ms."""
    chosen = columns(summary, "file")
    return csv_text(
        [
            {name: figure for column in chosen for name, figure in column.plain(row).items()}
            for row in summary.rows
        ]
    )


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
        write_whole(folder / f"table.{suffix}", text)


def _rich_table(summary: Summary, title: str, chosen: Sequence[Column]) -> Table:
    table = new_table(title, [column.name for column in chosen])
    for position, row in enumerate(summary.rows):
        if position and row.retention != summary.rows[position - 1].retention:
            table.add_section()
        table.add_row(*(_bold_markup(_text(column, row)) for column in chosen))
    return table


def _narrowest(table: Table) -> int:
    """Return the width that a table needs to show every figure."""
    console = Console(width=1000)
    return table.__rich_measure__(console, console.options).minimum


def _text(column: Column, row: RowSummary) -> tuple[str, bool]:
    """Return what a short table shows in a cell, and whether it is bold."""
    cell = column.cell(row)
    beside = UNEQUAL if column.key == "label" and row.unequal_budget else cell.aside
    return f"{cell.text} {beside}" if beside and column.aside else cell.text, cell.bold


def _kind_title(summary: Summary) -> str:
    return f"{summary.measure.capitalize()} by kind of question, %"


def _kind_columns(summary: Summary) -> list[str]:
    return ["row", *summary.chance]


def _kind_lines(summary: Summary) -> list[list[str]]:
    lines = []
    for row in summary.rows:
        scores = [f"{100 * row.kinds[kind].value:.1f}" for kind in summary.chance]
        mark = f" {UNEQUAL}" if row.unequal_budget else ""
        lines.append([f"{full_label(row, summary)}{mark}", *scores])
    lines.append(["(chance)", *(f"{100 * share:.1f}" for share in summary.chance.values())])
    return lines


def _bold_markup(cell: tuple[str, bool]) -> str:
    text, bold = cell
    return f"[bold]{escape(text)}[/bold]" if bold else escape(text)


def _bold_markdown(cell: tuple[str, bool]) -> str:
    text, bold = cell
    return f"**{text}**" if bold else text


def _escaped(text: str) -> str:
    """Return text of a Markdown cell without pipes, line breaks and HTML."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return " ".join(text.replace("|", "\\|").split("\n"))


def _markdown_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = [":--", *("--:" for _ in names[1:])]
    return [
        "| " + " | ".join(_escaped(part) for part in line) + " |" for line in [names, rule, *lines]
    ]
