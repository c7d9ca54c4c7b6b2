"""The columns of the report's table, and which rows may stand beside each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenred.evaluation.statistics import Estimate
from tokenred.evaluation.summary import RowSummary, Summary

NOT_APPLICABLE = "-"
OTHER_BUDGETS = "Other budgets: not ranked"
_MEASURES = {
    "accuracy": "share of right answers",
    "score": "mean score of all answers",
    "agreement": "share of answers that vanilla gives too",
}


@dataclass(frozen=True)
class Cell:
    """A figure as printed, what stands beside it in small print, and what it sorts by.

    ``value`` is None where there is no figure; such cells sort last.
    """

    text: str
    aside: str = ""
    value: float | str | None = None
    bold: bool = False


EMPTY = Cell(NOT_APPLICABLE)


@dataclass(frozen=True)
class Column:
    """A heading, the sentence that explains it, and the cell of each row."""

    name: str
    meaning: str
    cell: Callable[[RowSummary], Cell]


@dataclass(frozen=True)
class Group:
    """Rows of one budget. Those of a group that is not ``ranked`` keep unlike numbers of tokens."""

    name: str
    rows: tuple[RowSummary, ...]
    ranked: bool = True


def groups(summary: Summary) -> list[Group]:
    """Return the rows by budget, and last those that are fit for no ranking."""
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


def columns(summary: Summary) -> list[Column]:
    """Return the columns that this summary can fill."""
    unit, name = _flops_unit(summary.rows)
    every = [
        Column("row", "what was changed", _label),
        Column(
            measure_name(summary),
            f"{_MEASURES[summary.measure]}, per cent, with its 95 % interval",
            lambda row: _percent(row.score),
        ),
        Column(
            f"vs {summary.reference}",
            "difference to the reference on the same questions, percentage points, with its 95 % "
            "interval; bold where the interval excludes 0",
            _difference,
        ),
        Column("p", "chance of such a difference between equal rows, adjusted by Holm", _p_value),
        Column(
            "detectable",
            "the smallest difference, in percentage points, that this many questions find four "
            "times out of five",
            _detectable,
        ),
        Column(
            "agreement",
            "answers equal to vanilla's, per cent, with the 95 % interval; needs no labels",
            lambda row: EMPTY if summary.measure == "agreement" else _percent(row.agreement),
        ),
        Column(
            "KL",
            "how far the distribution of the next token is from vanilla's, nats",
            lambda row: _number(row.kl_nats, ".3f"),
        ),
        Column(
            "hidden",
            "distance of the last hidden state to vanilla's, 1 - cosine",
            lambda row: _number(row.hidden_distance, ".3f"),
        ),
        Column(
            "tokens",
            "visual tokens that enter the LLM, mean over samples, and their share of vanilla's",
            lambda row: _with_share(f"{row.n_tokens:.1f}", row.retention_ratio, row.n_tokens),
        ),
        Column(
            f"{name}FLOPs",
            "cost of reading the prompt, computed, and its share of vanilla's",
            lambda row: _with_share(
                f"{row.prefill_flops / unit:#.3g}".rstrip("."), row.flops_share, row.prefill_flops
            ),
        ),
        Column(
            "reducer ms",
            "measured time of the reduction alone, median",
            lambda row: _number(row.reducer_ms, ".1f"),
        ),
        Column(
            "answer ms",
            "measured time of one answer after the reduction, median",
            lambda row: _number(row.answer_ms or None, ".1f"),
        ),
        Column(
            "printed",
            "what somebody else printed, of another model",
            lambda row: _number(row.published, ".1f"),
        ),
    ]
    several = len(retentions(summary)) > 1
    if several and any(row.unequal_budget and row.retention is not None for row in summary.rows):
        budget = Column("budget", "the share of the tokens that was asked for", _budget)
        every.insert(1, budget)
    always = {"row", measure_name(summary), f"vs {summary.reference}", "p"}
    return [
        column
        for column in every
        if column.name in always or any(column.cell(row).value is not None for row in summary.rows)
    ]


def points(estimate: Estimate) -> str:
    """Return a difference in percentage points, signed."""
    return f"{100 * estimate.value:+.1f}"


def p_text(p_value: float | None) -> str:
    """Return a p value with three decimals."""
    if p_value is None:
        return NOT_APPLICABLE
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def latency_ms(row: RowSummary) -> float:
    """Return the median time of the reduction and of one answer, together."""
    return row.reducer_ms + row.answer_ms if row.answer_ms > 0 else 0.0


def measure_name(summary: Summary) -> str:
    """Return what the scores are, in words."""
    return "agreement with vanilla" if summary.measure == "agreement" else summary.measure


def _nearest(row: RowSummary, budgets: Sequence[float]) -> float | None:
    """Return the budget of a row; one with a budget of its own stands with the nearest."""
    if row.retention is not None or not budgets:
        return row.retention
    return min(budgets, key=lambda budget: abs(budget - row.retention_ratio))


def _group_name(budget: float | None) -> str:
    return "All tokens" if budget is None else f"{100 * budget:g} % of the tokens"


def _label(row: RowSummary) -> Cell:
    return Cell(row.label, value=row.label.casefold(), bold=row.is_reference)


def _budget(row: RowSummary) -> Cell:
    if row.retention is None:
        return EMPTY
    return Cell(f"{100 * row.retention:g} %", value=row.retention)


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
    aside = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return Cell(points(found), aside, found.value, found.excludes_zero)


def _p_value(row: RowSummary) -> Cell:
    return Cell(p_text(row.p_adjusted), value=row.p_adjusted)


def _detectable(row: RowSummary) -> Cell:
    found = None if row.difference is None else row.difference.minimum_detectable
    return EMPTY if found is None else Cell(f"{100 * found:.1f}", value=found)


def _number(value: float | None, form: str) -> Cell:
    return EMPTY if value is None else Cell(format(value, form), value=value)


def _with_share(text: str, share: float, value: float) -> Cell:
    return Cell(text, f"({100 * share:.1f} %)", value)


def _flops_unit(rows: Sequence[RowSummary]) -> tuple[float, str]:
    most = max(row.prefill_flops for row in rows)
    units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
    return next(((size, name) for size, name in units if most >= size), (1.0, ""))
