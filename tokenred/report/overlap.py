"""An overlap comparison as terminal tables, CSV, JSON and heat maps."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokenred.errors import TokenredError
from tokenred.evaluation.overlap.compared import ClipMean, ComparedPair, ComparedRow, Comparison
from tokenred.report.columns import NOT_APPLICABLE
from tokenred.report.table import UNEQUAL
from tokenred.report.text import csv_text, dim, new_table

COVERAGE = {
    "n_tokens": "tokens",
    "tokens": "covered %",
    "effective_tokens": "effective %",
    "cells": "cells %",
    "effective_frames": "frames %",
}
RECONSTRUCTION = {
    "error": "error",
    "least_squares_error": "least squares",
    "nearest_error": "nearest",
    "radius": "radius",
    "cosine": "cosine",
}
"""Figure of a row -> heading of its column."""

CAPTION = (
    "covered: encoder tokens with any weight in the output; effective: the same, by how evenly the "
    "weight lies; cells: places of the grid that are used in some frame; frames: how evenly the "
    "output spreads over time.",
    "error: of all encoder tokens, each rebuilt from the outputs that it flowed into; least "
    "squares: from the best combination of what is left of its frame; nearest: from the most "
    "similar output. 0 is perfect, 1 as bad as one mean token. radius: the worst token, in the "
    "unit of 'nearest'. cosine: of a token and what it is rebuilt as.",
    "± is half of the 95 % interval over clips, as if these were a random sample of videos; it is "
    "not adjusted for the number of figures.",
    f"{UNEQUAL} keeps another number of tokens than the budget: do not rank it with the others.",
)
_WITH_SPREAD = ("error", "nearest_error")


def overlap_header(comparison: Comparison) -> str:
    """Return encoder, clips and grid in words."""
    rows, columns = comparison.grid
    grid = f"{rows}x{columns}"
    if comparison.llm_grid != comparison.grid:
        grid += " pooled to {}x{}".format(*comparison.llm_grid)
    n_clips = len(comparison.clips)
    clips = ", ".join(comparison.clips) if n_clips <= 5 else "generated or given"
    return (
        f"{comparison.encoder}: {n_clips} clips ({clips}), up to {comparison.n_frames} frames of "
        f"{grid} tokens"
    )


def overlap_tables(comparison: Comparison) -> Group:
    """Return tables and matrices of every budget, for a terminal."""
    parts: list[Any] = dim([overlap_header(comparison)])
    budgets: list[float | None] = [*comparison.retentions] or [None]
    for retention in budgets:
        at = "" if retention is None else f" at {100 * retention:g} %"
        parts += [
            _row_table(comparison, retention, f"What is covered{at}", COVERAGE),
            _row_table(comparison, retention, f"What is lost{at}", RECONSTRUCTION),
        ]
        pairs = [pair for pair in comparison.pairs if pair.retention == retention]
        if pairs:
            chances = sorted(pair.chance for pair in pairs)
            low, high = (f"{100 * chances[end]:.1f}" for end in (0, -1))
            chance = low if low == high else f"{low} to {high}"
            parts += [
                *_matrix(
                    pairs,
                    f"Kept places{at}: below the diagonal IoU in % (chance: {chance}), above it "
                    "adjusted IoU in % (0: chance, 100: the same places)",
                    below=lambda pair: pair.iou,
                    above=lambda pair: pair.adjusted_iou,
                ),
                *_matrix(
                    pairs,
                    f"Below the diagonal{at} overlap coefficient of the kept places in %, above it "
                    "Spearman's rank correlation x 100 of the weights of all encoder tokens",
                    below=lambda pair: pair.overlap,
                    above=lambda pair: pair.rank_correlation,
                ),
            ]
    remarks = [f"{row.label}: {remark}" for row in comparison.rows for remark in row.remarks]
    return Group(*parts, *dim(dict.fromkeys([*CAPTION, *remarks])))


def overlap_json(comparison: Comparison) -> str:
    """Return everything, nested, with plain numbers."""
    return json.dumps(asdict(comparison), indent=2) + "\n"


def rows_csv(comparison: Comparison) -> str:
    """Return one line a row, with ``_low`` and ``_high`` ends of intervals."""
    return csv_text([_flat(row, row.measures) for row in comparison.rows])


def pairs_csv(comparison: Comparison) -> str:
    """Return one line a pair."""
    return csv_text([_flat(pair, {}) for pair in comparison.pairs])


def write_overlap(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``overlap.json``, ``overlap.csv``, ``overlap-pairs.csv``, and heat maps if possible.

    Returns
    -------
    The files; without matplotlib there are no heat maps among them.

    Raises
    ------
    TokenredError
        If a file cannot be written.
    """
    texts = {
        "overlap.json": overlap_json(comparison),
        "overlap.csv": rows_csv(comparison),
        "overlap-pairs.csv": pairs_csv(comparison),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [*(folder / name for name in texts), *_heat_maps(comparison, folder)]
    except OSError as error:
        raise TokenredError(f"cannot write into {folder}: {error.strerror}") from error


def matrix_labels(pairs: Sequence[ComparedPair]) -> list[str]:
    """Return the labels that occur in pairs, in the order of the rows."""
    return list(dict.fromkeys([pairs[0].first, *(pair.second for pair in pairs)]))


def _row_table(
    comparison: Comparison, retention: float | None, title: str, measures: dict[str, str]
) -> Table:
    table = new_table(title, ["row", *measures.values()])
    for row in comparison.rows:
        if row.retention in (None, retention):
            label = f"{row.label} {UNEQUAL}" if row.unequal_budget else row.label
            table.add_row(escape(label), *(_number(name, row) for name in measures))
    return table


def _matrix(
    pairs: Sequence[ComparedPair],
    title: str,
    below: Callable[[ComparedPair], ClipMean | None],
    above: Callable[[ComparedPair], ClipMean | None],
) -> tuple[Text, Table]:
    """Return a title, which may be wider than its table, and a table with two triangles."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", justify="right")
    labels = matrix_labels(pairs)
    table.add_column("row", no_wrap=True)
    by_labels = {(pair.first, pair.second): pair for pair in pairs}
    for number in range(1, len(labels) + 1):
        table.add_column(str(number), justify="right")
    for i, row in enumerate(labels):
        cells = []
        for j, column in enumerate(labels):
            key = (row, column) if i < j else (column, row)
            value = None if i == j else (above if i < j else below)(by_labels[key])
            cells.append("" if i == j else _hundredths(value))
        table.add_row(str(i + 1), escape(row), *cells)
    return Text(title, style="bold"), table


def _hundredths(estimate: ClipMean | None) -> str:
    return NOT_APPLICABLE if estimate is None else str(round(100 * estimate.value))


def _number(name: str, row: ComparedRow) -> str:
    """Return a mean, for errors with half of its interval."""
    if name == "n_tokens":
        return f"{row.n_tokens:.1f}"
    mean = row.measures[name]
    if name in COVERAGE:
        return f"{100 * mean.value:.1f}"
    spread = f"{mean.half_width or 0:.2f}"
    shown = name in _WITH_SPREAD and float(spread)
    return f"{mean.value:.2f} ±{spread}" if shown else f"{mean.value:.2f}"


def _flat(item: ComparedRow | ComparedPair, more: dict[str, ClipMean]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in {**vars(item), **more}.items():
        if isinstance(value, ClipMean):
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        elif name == "remarks":
            flat[name] = "; ".join(value)
        elif name != "measures":
            flat[name] = value
    return flat


def _heat_maps(comparison: Comparison, folder: Path) -> Iterator[Path]:
    """Draw adjusted IoU and rank correlation side by side, one figure a budget."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    for retention in comparison.retentions:
        pairs = [pair for pair in comparison.pairs if pair.retention == retention]
        if not pairs:
            continue
        labels = matrix_labels(pairs)
        side = 2.2 + 0.42 * len(labels)
        figure = Figure(figsize=(2 * side, side), layout="constrained")
        panels = {
            "adjusted IoU of the kept places": lambda pair: pair.adjusted_iou,
            "rank correlation of the weights": lambda pair: pair.rank_correlation,
        }
        for axes, (title, value_of) in zip(figure.subplots(1, 2), panels.items()):
            _draw(figure, axes, title, labels, pairs, value_of)
        figure.suptitle(f"{comparison.encoder}, {100 * retention:g} % of the tokens; in hundredths")
        path = folder / f"overlap-{100 * retention:g}.png"
        figure.savefig(path, dpi=120)
        yield path


def _draw(
    figure: Any,
    axes: Any,
    title: str,
    labels: Sequence[str],
    pairs: Sequence[ComparedPair],
    value_of: Callable[[ComparedPair], ClipMean | None],
) -> None:
    import numpy as np

    values = np.full((len(labels), len(labels)), np.nan)
    for pair in pairs:
        estimate = value_of(pair)
        if estimate is not None:
            i, j = labels.index(pair.first), labels.index(pair.second)
            values[i, j] = values[j, i] = estimate.value
    image = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    for i, j in zip(*np.nonzero(np.isfinite(values))):
        dark = abs(values[i, j]) > 0.6
        axes.text(
            j,
            i,
            str(round(100 * values[i, j])),
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    axes.set_title(title)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7)
