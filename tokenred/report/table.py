"""One summary, four forms: terminal, Markdown, CSV and JSON, all with the same figures."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokenred.evaluation.files import write_whole
from tokenred.evaluation.statistics import Estimate, PairedDifference
from tokenred.evaluation.summary import BUDGET_TOLERANCE, Best, Measure, RowSummary, Summary

UNEQUAL = "†"
MEASURES: dict[Measure, str] = {
    "accuracy": "Accuracy is the share of right answers",
    "score": "Score is the mean over questions, from 0 to 100",
    "agreement": "No question has a label: agreement is the share of answers that are those of the "
    "unreduced model",
}
NOT_APPLICABLE = "-"
LABEL_WIDTH = 12
"""Columns of a terminal that a row's label gets at least; longer labels are folded."""


def header(summary: Summary) -> str:
    """Return the line that says what was measured."""
    kept = sorted({row.retention for row in summary.rows if row.retention is not None})[::-1]
    budgets = ", ".join(f"{100 * ratio:g} %" for ratio in kept) or "all"
    return (
        f"{summary.model} ({summary.model_revision}) on {summary.task} "
        f"({summary.task_fingerprint}): {summary.n_samples} videos, {summary.n_questions} "
        f"questions; {budgets} of the tokens; tokenred {summary.code_version}"
    )


def caption(summary: Summary) -> list[str]:
    """Return the sentences under the table that explain it to a reader who knows nothing else."""
    lines = [
        f"{MEASURES[summary.measure]}; brackets hold 95 % intervals, in which the questions about "
        "one video stand or fall together.",
        f"The difference is to '{summary.reference}' at the same budget, question by question, in "
        "percentage points; bold where its interval excludes 0. p is a sign-flip test over videos, "
        "adjusted by Holm for all comparisons of the table.",
        "Tokens are the visual tokens that enter the LLM, mean over videos, newline tokens apart; "
        "FLOPs follow Eq. 17 of the AOT paper with what enters each layer, in brackets relative to "
        "vanilla; ms is the median time of the reduction alone, as it went by; `tokenred bench` "
        "measures.",
    ]
    if summary.measure != "agreement" and _loyal(summary):
        lines.append(
            "Agreement is the share of answers that are those of the unreduced model; KL is how "
            "far the distribution of the next token lies from its, mean in nats."
        )
    lines += [_best_line(best, summary.reference) for best in summary.best]
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
    if summary.failures:
        samples = {sample for _, sample, _ in summary.failures}
        row, sample, reason = summary.failures[0]
        lines.append(
            f"{len(samples)} videos are left out of all rows, as one or more rows failed on them; "
            f"the first: row '{row}' on '{sample}': {reason}"
        )
    if summary.mixed:
        others = ", ".join(summary.other_versions)
        lines.append(f"Some results are of other versions of the code: {others} (--allow-mixed).")
    return lines


def _loyal(summary: Summary) -> bool:
    return any(row.agreement is not None for row in summary.rows)


def _best_line(best: Best, reference: str) -> str:
    """Return the sentence that names the best row of one budget."""
    against = ""
    if best.difference is not None:
        against = f", {_points(best.difference.estimate)} points against '{reference}'"
    return (
        f"Best at {100 * best.retention:g} %: '{best.label}', chosen among {best.n_rows} rows on "
        f"{best.n_choosing} videos; on the {best.n_measuring} others it has "
        f"{_interval(best.score)}{against}. There {best.n_close} of the other rows cannot be "
        "told from it (paired 95 % interval, not adjusted for their number)."
    )


def to_rich(summary: Summary, width: int) -> Group:
    """Return the table for a terminal of ``width`` columns; a narrow one gets it in two parts."""
    columns = _columns(summary)
    tables = [_rich_table(summary, summary.title, columns)]
    if _narrowest(tables[0]) > width:
        parts = {"score": summary.title, "cost": "Cost"}
        tables = [
            _rich_table(summary, title, [c for c in columns if c.part in ("both", part)])
            for part, title in parts.items()
        ]
    kinds = _empty_table(_kind_title(summary), _kind_columns(summary))
    for line in _kind_lines(summary):
        kinds.add_row(*map(escape, line))
    question = [Text(summary.question)] if summary.question else []
    about = [Text(line, style="dim") for line in caption(summary)]
    return Group(*question, Text(header(summary), style="dim"), *tables, kinds, *about)


def to_markdown(summary: Summary) -> str:
    """Return the same as a Markdown page."""
    columns = _columns(summary)
    lines = [f"# {summary.title}", ""]
    lines += [summary.question, ""] if summary.question else []
    lines += [header(summary), ""]
    lines += _markdown_table(
        [column.name for column in columns],
        [[_markdown_cell(column.cell(row)) for column in columns] for row in summary.rows],
    )
    lines += ["", f"{_kind_title(summary)}:", ""]
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
        write_whole(folder / f"table.{suffix}", text)


Cell = tuple[str, bool]
"""Text, and whether it is bold."""


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[RowSummary], Cell]
    part: Literal["both", "score", "cost"] = "score"


def _columns(summary: Summary) -> list[_Column]:
    def plain(text: Callable[[RowSummary], str]) -> Callable[[RowSummary], Cell]:
        return lambda row: (text(row), False)

    unit, name = _flops_unit(summary)
    columns = [_Column("row", _label, part="both")]
    if len({row.retention for row in summary.rows if row.retention is not None}) > 1:
        budget = plain(lambda row: _percent(row.retention))
        columns.append(_Column("budget", budget, part="both"))
    columns += [
        _Column(f"{summary.measure} %", plain(lambda row: _interval(row.score))),
        _Column(f"vs {summary.reference}", _difference),
        _Column("p", plain(lambda row: _p_value(row.p_adjusted))),
        _Column(
            "tokens",
            plain(lambda row: _with_share(f"{row.n_tokens:.1f}", row.retention_ratio)),
            part="cost",
        ),
        _Column(
            f"{name}FLOPs",
            plain(lambda row: _with_share(_digits(row.prefill_flops / unit), row.flops_share)),
            part="cost",
        ),
        _Column("ms", plain(lambda row: f"{row.reducer_ms:.1f}"), part="cost"),
    ]
    if summary.measure != "agreement" and _loyal(summary):
        columns.append(_Column("agreement %", plain(_agreement), part="cost"))
        columns.append(_Column("KL", plain(lambda row: _small(row.kl_nats)), part="cost"))
    if any(row.published is not None for row in summary.rows):
        columns.append(_Column("printed", plain(lambda row: _number(row.published))))
    return columns


def _rich_table(summary: Summary, title: str, columns: Sequence[_Column]) -> Table:
    table = _empty_table(title, [column.name for column in columns])
    for position, row in enumerate(summary.rows):
        if position and row.retention != summary.rows[position - 1].retention:
            table.add_section()
        table.add_row(*(_rich_cell(column.cell(row)) for column in columns))
    return table


def _empty_table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column(names[0], overflow="fold", min_width=LABEL_WIDTH)
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _narrowest(table: Table) -> int:
    """Return the columns that a table needs to show every figure whole."""
    console = Console(width=1000)
    return table.__rich_measure__(console, console.options).minimum


def _label(row: RowSummary) -> Cell:
    return f"{row.label} {UNEQUAL}" if row.unequal_budget else row.label, row.is_reference


def _difference(row: RowSummary) -> Cell:
    if row.is_reference:
        return "reference", False
    if row.difference is None:
        return NOT_APPLICABLE, False
    return _points(row.difference.estimate), row.difference.estimate.excludes_zero


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return NOT_APPLICABLE
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _agreement(row: RowSummary) -> str:
    return NOT_APPLICABLE if row.agreement is None else f"{100 * row.agreement.value:.1f}"


def _small(value: float | None) -> str:
    return NOT_APPLICABLE if value is None else f"{value:.2g}"


def _kind_title(summary: Summary) -> str:
    return f"{summary.measure.capitalize()} by kind of question, %"


def _percent(share: float | None) -> str:
    return NOT_APPLICABLE if share is None else f"{100 * share:g} %"


def _number(value: float | None) -> str:
    return NOT_APPLICABLE if value is None else f"{value:.1f}"


def _with_share(text: str, share: float) -> str:
    return f"{text} ({100 * share:.1f} %)"


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
            flat |= {other: of for other, of in vars(value).items() if other != "estimate"}
        elif name == "kinds":
            flat |= {f"score_{kind}": estimate.value for kind, estimate in value.items()}
        elif name == "code_versions":
            flat[name] = "; ".join(value)
        elif value is not None or name not in ("difference", "agreement"):
            flat[name] = value
    return flat


def _spread(name: str, estimate: Estimate) -> dict[str, float | None]:
    found = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
    return {f"{name}{end}": each for end, each in found.items()} | {
        f"{name}_standard_error": estimate.standard_error
    }
