"""Forest plot: each row's paired difference to the reference, with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenred.evaluation.summary import RowSummary, Summary
from tokenred.report.columns import full_label, groups, p_text, points
from tokenred.report.plots import canvas
from tokenred.report.plots.canvas import ACCENT, BAND, INK, MUTED, PAPER, WORSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, LINE_HEIGHT = 620.0, 19.0
LABEL_LENGTH = 34
LEFT, RIGHT = 0.33, 0.68
"""Where the axis of differences begins and ends, as shares of the width."""

FIGURES = {"difference": 0.855, "p": 0.915, "detectable": 0.995}
"""Right edges of the columns of figures, as shares of the width."""


def forest(summary: Summary) -> canvas.Plot | None:
    """Return the plot; None if no row is compared with another.

    Rows of one budget stand together, best first; rows of other budgets come last and are drawn as
    diamonds. The band behind a row is what its number of questions can not detect.
    """
    lines = _lines(summary)
    if not any(isinstance(line, RowSummary) for line in lines):
        return None
    height = LINE_HEIGHT * (len(lines) + 3.2)
    with canvas.drawing():
        figure, axes = canvas.new_plot(WIDTH, height)
        bottom, top = 2.2 * LINE_HEIGHT / height, 1 - LINE_HEIGHT / height
        axes.set_position((LEFT, bottom, RIGHT - LEFT, top - bottom))
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=INK, linewidth=0.8, zorder=1)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(f"percentage points against {canvas.elide(summary.reference, 40)}")
        axes.xaxis.label.set_parse_math(False)
        _head(axes)
        titles: dict[str, str] = {}
        for place, line in enumerate(lines):
            if isinstance(line, RowSummary):
                label = full_label(line, summary) if line.unequal_budget else line.label
                titles |= _draw(axes, line, label, float(place))
            else:
                _write(axes, 0.0, float(place), line, ha="left", fontweight="bold")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -1.0), max(high, 1.0))
        about = (
            f"difference of each row to {summary.reference}, with 95 % intervals, which are not "
            "adjusted, and p, which is (Holm)"
        )
        return canvas.Plot(figure, "forest", about, titles)


def _lines(summary: Summary) -> list[RowSummary | str]:
    """Return the lines: group names and rows."""
    lines: list[RowSummary | str] = []
    for group in groups(summary):
        compared = [row for row in group.rows if row.difference is not None]
        if compared:
            lines += [group.name, *sorted(compared, key=_effect, reverse=True)]
    return lines


def _effect(row: RowSummary) -> float:
    return 0.0 if row.difference is None else row.difference.estimate.value


def _head(axes: Axes) -> None:
    heads = {"difference": "difference [95 %]", "p": "p", "detectable": "detectable"}
    for name, right in FIGURES.items():
        _write(axes, right, -0.95, heads[name], ha="right", color=MUTED, fontsize=7.5)


def _draw(axes: Axes, row: RowSummary, label: str, place: float) -> dict[str, str]:
    """Draw one row; return its hover text by gid."""
    assert row.difference is not None
    found, detectable = row.difference.estimate, row.difference.minimum_detectable
    value, low, high = (100 * each for each in (found.value, found.low, found.high))
    if detectable is not None:
        axes.barh(
            place, 200 * detectable, left=-100 * detectable, height=0.72, color=BAND, zorder=0.5
        )
    colour = MUTED
    if found.excludes_zero and not row.unequal_budget:
        colour = ACCENT if value > 0 else WORSE
    axes.plot([low, high], [place, place], color=colour, linewidth=1.4, zorder=3)
    (mark,) = axes.plot(
        value,
        place,
        marker="D" if row.unequal_budget else "o",
        markersize=6,
        markerfacecolor=colour if found.excludes_zero else PAPER,
        markeredgecolor=colour,
        markeredgewidth=1.4,
        linestyle="none",
        zorder=4,
    )
    gid = f"row-{place:g}"
    mark.set_gid(gid)
    dagger = " †" if row.unequal_budget else ""
    _write(axes, LEFT - 0.015, place, canvas.elide(label, LABEL_LENGTH) + dagger, ha="right")
    weight = "bold" if found.excludes_zero else "normal"
    interval = f"{points(found)} [{low:+.1f}, {high:+.1f}]"
    _write(axes, FIGURES["difference"], place, interval, ha="right", fontweight=weight)
    _write(axes, FIGURES["p"], place, p_text(row.p_adjusted), ha="right")
    least = "-" if detectable is None else f"{100 * detectable:.1f}"
    _write(axes, FIGURES["detectable"], place, least, ha="right")
    title = f"{label}: {interval} points, p {p_text(row.p_adjusted)} after Holm"
    needed = row.difference.n_needed
    return {gid: title if needed is None else f"{title}; {needed} samples would show it"}


def _write(axes: Axes, x: float, y: float, text: str, **style: object) -> None:
    """Write at a share of the figure's width and a line of the plot."""
    from matplotlib.transforms import blended_transform_factory

    figure = axes.get_figure()
    across = blended_transform_factory(figure.transFigure, axes.transData)  # type: ignore[union-attr]
    options: dict[str, Any] = {
        "fontsize": 8.5,
        "color": INK,
        "va": "center",
        "parse_math": False,
    } | style
    axes.text(x, y, text, transform=across, clip_on=False, **options)
