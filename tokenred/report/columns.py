"""Columns of the result tables, and grouping of comparable rows.

A column is one entry of :func:`columns`; a measured one is a field of ``StoredAnswer`` or ``Cost``
in ``tokenred.evaluation.store`` and needs no entry at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from tokenred.accounting import flops_text, flops_unit
from tokenred.errors import ConfigError, nearest, quoted
from tokenred.evaluation.statistics import Estimate, PairedDifference
from tokenred.evaluation.store import MEASURED
from tokenred.evaluation.summary import Measure, RowSummary, Summary

NOT_APPLICABLE = "-"
OTHER_BUDGETS = "Other budgets: not ranked"
MEANINGS: dict[Measure, str] = {
    "accuracy": "the share of right answers",
    "score": "the mean over questions, from 0 to 100",
    "agreement": "the share of answers that are those of the unreduced model",
}


@dataclass(frozen=True)
class Cell:
    """A table cell: text, small print beside it, and sort value.

    ``value`` is None where there is no figure; such cells sort last.
    """

    text: str
    aside: str = ""
    value: float | str | None = None
    bold: bool = False


EMPTY = Cell(NOT_APPLICABLE)
Shown = Literal["brief", "page", "file"]
"""Tables from the shortest: terminal and Markdown; HTML and LaTeX; CSV. Each has all before it."""
_SHOWN: tuple[Shown, ...] = ("brief", "page", "file")


@dataclass(frozen=True)
class Column:
    """One column, for all table formats.

    Attributes
    ----------
    key : its name in files, where the figures of ``figure`` stand as they are
    name, meaning : its heading, and the sentence that explains it
    figure : what it shows of a row: a plain value, an estimate, a difference, or None
    cell : what is printed of a row
    since : the shortest table that has it
    part : of two tables, where one is too wide, the one that has it
    aside : whether short tables show what stands in small print
    """

    key: str
    name: str
    meaning: str
    figure: Callable[[RowSummary], Any]
    cell: Callable[[RowSummary], Cell]
    since: Shown = "page"
    part: Literal["both", "score", "cost"] = "cost"
    aside: bool = True

    def plain(self, row: RowSummary) -> dict[str, Any]:
        """Return the figures of a row by names such as ``score_low``."""
        return _plain(self.key, self.figure(row))


@dataclass(frozen=True)
class Group:
    """Rows of one budget. A group that is not ``ranked`` has rows with different token counts."""

    name: str
    rows: tuple[RowSummary, ...]
    ranked: bool = True


def groups(summary: Summary) -> list[Group]:
    """Return the rows by budget, and last those that must not be ranked."""
    budgets = retentions(summary)
    inside: dict[float | None, list[RowSummary]] = {budget: [] for budget in budgets}
    inside.setdefault(None, [])
    for row in summary.rows:
        if not row.unequal_budget:
            inside[_nearest(row, budgets)].append(row)
    found = [Group(_group_name(budget), tuple(rows)) for budget, rows in inside.items() if rows]
    unequal = tuple(row for row in summary.rows if row.unequal_budget)
    return [*found, Group(OTHER_BUDGETS, unequal, ranked=False)] if unequal else found


def retentions(summary: Summary) -> list[float]:
    """Return the budgets of the table, largest first."""
    return sorted({row.retention for row in summary.rows if row.retention is not None})[::-1]


def full_label(row: RowSummary, summary: Summary) -> str:
    """Return the label, with the budget where the table has several."""
    if row.retention is None or len(retentions(summary)) < 2:
        return row.label
    return f"{row.label}, {100 * row.retention:g} %"


def choose_columns(
    summary: Summary, keys: Sequence[str] = (), shown: Shown = "page"
) -> list[Column]:
    """Return the columns with these keys behind the label, in this order; all of a table if none.

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    if not keys:
        return columns(summary, shown)
    known = {each.key: each for each in columns(summary, "file") if each.key not in _FACTS}
    for key in keys:
        if key not in known:
            raise ConfigError(f"no column {quoted(key)}{nearest(key, known)}", ["--columns"])
    return [known[key] for key in dict.fromkeys(("label", *keys))]


def columns(summary: Summary, shown: Shown = "page") -> list[Column]:
    """Return the columns of a table that this summary can fill."""
    measure, reference = summary.measure, summary.reference
    unit = flops_unit([row.prefill_flops for row in summary.rows])
    budgets = len(retentions(summary)) > 1
    every = [
        Column("label", "row", "what was changed", _get("label"), _label, "brief", "both"),
        Column(
            "retention",
            "budget",
            "the share of the tokens that was asked for",
            _get("retention"),
            lambda row: _number(row.retention, lambda share: f"{100 * share:g} %"),
            "brief" if budgets else "file",
            "both",
        ),
        Column(
            "score",
            f"{measure} %",
            f"{MEANINGS[measure]}, with its 95 % interval, not adjusted for the number of rows",
            _get("score"),
            lambda row: _percent(row.score),
            "brief",
            "score",
        ),
        Column(
            "difference",
            f"vs {reference}",
            "difference to the reference on the same questions, percentage points, with its 95 % "
            "interval; bold where the interval excludes 0; neither is adjusted for the number of "
            "rows",
            _get("difference"),
            _difference,
            "brief",
            "score",
        ),
        Column(
            "p_adjusted",
            "p",
            "chance of such a difference between equal rows, adjusted by Holm for all comparisons "
            "of the table",
            _get("p_adjusted"),
            lambda row: Cell(p_text(row.p_adjusted), value=row.p_adjusted),
            "brief",
            "score",
        ),
        Column(
            "minimum_detectable",
            "detectable",
            "the smallest difference, in percentage points, that one comparison at 5 %, not "
            "adjusted, finds four times out of five; a dash where there is none",
            _detectable,
            lambda row: _number(_detectable(row), lambda share: f"{100 * share:.1f}"),
            part="score",
        ),
        Column(
            "n_tokens",
            "tokens",
            "visual tokens that enter the LLM, mean over videos, and their share of vanilla's",
            _get("n_tokens"),
            lambda row: _with_share(row.n_tokens, f"{row.n_tokens:.1f}", row.retention_ratio),
            "brief",
        ),
        Column(
            "prefill_flops",
            f"{unit}FLOPs",
            "cost of reading the prompt, computed, and its share of vanilla's",
            _get("prefill_flops"),
            lambda row: _with_share(
                row.prefill_flops, flops_text(row.prefill_flops, unit), row.flops_share
            ),
            "brief",
        ),
        Column(
            "agreement",
            "agreement %",
            "answers equal to vanilla's, with the 95 % interval; needs no labels",
            _get("agreement"),
            lambda row: EMPTY if measure == "agreement" else _percent(row.agreement),
            "brief",
            aside=False,
        ),
        *(
            Column(
                name,
                each.heading,
                each.meaning,
                partial(_measured, name),
                partial(_measured_cell, name),
                "brief" if each.brief else "page",
            )
            for name, each in MEASURED.items()
        ),
        Column(
            "published",
            "printed",
            "the published score, of another model",
            _get("published"),
            lambda row: _number(row.published, "{:.1f}".format),
            "brief",
            "score",
        ),
        *(Column(name, name, "", _get(name), lambda row: EMPTY, "file") for name in _FACTS),
    ]
    always = ("label", "score", "difference", "p_adjusted")
    return [
        column
        for column in every
        if _SHOWN.index(column.since) <= _SHOWN.index(shown)
        and (
            shown == "file"
            or column.key in always
            or any(column.cell(row).value is not None for row in summary.rows)
        )
    ]


_FACTS = (
    "config_id", "code_versions", "frames", "control", "is_reference", "unequal_budget",
    "n_samples", "n_questions", "newline_tokens", "retention_ratio", "flops_share", "kinds",
)  # fmt: skip
"""What files have beside what tables show."""


def points(estimate: Estimate) -> str:
    """Return a difference in percentage points, signed."""
    return f"{100 * estimate.value:+.1f}"


def points_interval(estimate: Estimate) -> str:
    """Return the interval of a difference in percentage points."""
    return f"[{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def percent(estimate: Estimate) -> str:
    """Return a share in per cent with its interval."""
    cell = _percent(estimate)
    return f"{cell.text} {cell.aside}"


def p_text(p_value: float | None) -> str:
    """Return a p value with three decimals."""
    if p_value is None:
        return NOT_APPLICABLE
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def latency_ms(row: RowSummary) -> float:
    """Return the median time of the reduction and of one answer, together; 0 if unknown."""
    reducer, answer = row.measured["reducer_ms"], row.measured["answer_ms"]
    return (reducer or 0.0) + answer if answer else 0.0


def measure_name(summary: Summary) -> str:
    """Return the name of the measure."""
    return "agreement with vanilla" if summary.measure == "agreement" else summary.measure


def _nearest(row: RowSummary, budgets: Sequence[float]) -> float | None:
    """Return the budget of a row; the nearest one for a row with its own budget."""
    if row.retention is not None or not budgets:
        return row.retention
    return min(budgets, key=lambda budget: abs(budget - row.retention_ratio))


def _group_name(budget: float | None) -> str:
    return "All tokens" if budget is None else f"{100 * budget:g} % of the tokens"


def _get(name: str) -> Callable[[RowSummary], Any]:
    return lambda row: getattr(row, name)


def _plain(key: str, figure: Any) -> dict[str, Any]:
    """Return a figure as plain values, one name for each part."""
    if isinstance(figure, Estimate):
        return {
            key if name == "value" else f"{key}_{name}": each for name, each in vars(figure).items()
        }
    if isinstance(figure, PairedDifference):
        others = {name: each for name, each in vars(figure).items() if name != "estimate"}
        return _plain(key, figure.estimate) | others
    if isinstance(figure, dict):
        return {f"score_{kind}": estimate.value for kind, estimate in figure.items()}
    return {key: "; ".join(figure) if isinstance(figure, tuple) else figure}


def _label(row: RowSummary) -> Cell:
    return Cell(row.label, value=row.label.casefold(), bold=row.is_reference)


def _percent(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return EMPTY
    low, high = 100 * estimate.low, 100 * estimate.high
    return Cell(f"{100 * estimate.value:.1f}", f"[{low:.1f}, {high:.1f}]", estimate.value)


def _difference(row: RowSummary) -> Cell:
    if row.is_reference:
        return Cell("reference", value=0.0)
    if row.difference is None:
        return EMPTY
    found = row.difference.estimate
    return Cell(points(found), points_interval(found), found.value, found.excludes_zero)


def _detectable(row: RowSummary) -> float | None:
    return None if row.difference is None else row.difference.minimum_detectable


def _measured(name: str, row: RowSummary) -> float | None:
    return row.measured[name]


def _measured_cell(name: str, row: RowSummary) -> Cell:
    return _number(row.measured[name], lambda value: format(value, MEASURED[name].digits))


def _number(value: float | None, form: Callable[[float], str]) -> Cell:
    return EMPTY if value is None else Cell(form(value), value=value)


def _with_share(value: float, text: str, share: float) -> Cell:
    return Cell(text, f"({100 * share:.1f} %)", value)
