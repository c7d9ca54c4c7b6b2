"""Scores by kind of question, as a heat map."""

from dataclasses import dataclass

from tokenred.evaluation.statistics import Estimate
from tokenred.evaluation.summary import RowSummary, Summary
from tokenred.report.columns import Group, full_label, groups


@dataclass(frozen=True)
class HeatCell:
    """A score in per cent, its interval in words, and its shade from 0 (chance) to 1 (best)."""

    text: str
    title: str
    shade: float


@dataclass(frozen=True)
class HeatRow:
    """The label of a row and a cell for each kind; None where it answered no such question."""

    label: str
    cells: tuple[HeatCell | None, ...]


@dataclass(frozen=True)
class Heat:
    """The map: ``chance`` holds the score of a guess for each kind, None where there is none."""

    kinds: tuple[str, ...]
    chance: tuple[float | None, ...]
    groups: tuple[tuple[Group, tuple[HeatRow, ...]], ...]


def heat(summary: Summary) -> Heat:
    """Return the scores of every row, shaded within each column."""
    kinds = tuple(dict.fromkeys(kind for row in summary.rows for kind in row.kinds))
    guessed = {} if summary.measure == "agreement" else summary.chance
    best = {
        kind: max(row.kinds[kind].value for row in summary.rows if kind in row.kinds)
        for kind in kinds
    }
    return Heat(
        kinds,
        tuple(guessed.get(kind) for kind in kinds),
        tuple(
            (
                group,
                tuple(
                    HeatRow(_label(row, summary), _cells(row, kinds, guessed, best))
                    for row in group.rows
                ),
            )
            for group in groups(summary)
        ),
    )


def _label(row: RowSummary, summary: Summary) -> str:
    return full_label(row, summary) if row.unequal_budget else row.label


def _cells(
    row: RowSummary, kinds: tuple[str, ...], guessed: dict[str, float], best: dict[str, float]
) -> tuple[HeatCell | None, ...]:
    return tuple(
        _cell(row.kinds[kind], guessed.get(kind, 0.0), best[kind]) if kind in row.kinds else None
        for kind in kinds
    )


def _cell(estimate: Estimate, chance: float, best: float) -> HeatCell:
    room = best - chance
    shade = (estimate.value - chance) / room if room > 0 else 0.0
    interval = f"95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    return HeatCell(f"{100 * estimate.value:.1f}", interval, round(min(max(shade, 0.0), 1.0), 2))
