"""Pareto plot: score against tokens, FLOPs or measured time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tokenred.evaluation.statistics import Estimate
from tokenred.evaluation.summary import RowSummary, Summary
from tokenred.report.columns import full_label, latency_ms, measure_name
from tokenred.report.plots import canvas
from tokenred.report.plots.canvas import ACCENT, INK, LINE, MUTED, PAPER
from tokenred.report.plots.labels import Box, Label, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

WIDTH, HEIGHT = 540.0, 360.0
MANY = 12
"""With more rows than this, only the front, the reference and the controls are labelled."""

LABEL_LENGTH = 30
DODGE = 5.0
"""Pixels between points of equal cost, so that their intervals stand side by side."""


@dataclass(frozen=True)
class Axis:
    """What the x axis shows; a ``cost`` of 0 is one that was not measured."""

    key: str
    title: str
    unit: str
    cost: Callable[[RowSummary], float]


AXES = {
    axis.key: axis
    for axis in (
        Axis("tokens", "visual tokens that enter the LLM", "tokens", lambda row: row.n_tokens),
        Axis("flops", "prefill FLOPs, computed", "FLOPs", lambda row: row.prefill_flops),
        Axis("latency", "measured ms: reduction and answer", "ms", latency_ms),
    )
}


@dataclass(frozen=True)
class _Point:
    row: RowSummary
    label: str
    x: float
    y: Estimate  # per cent
    dodge: float = 0.0


def pareto(summary: Summary, key: str) -> canvas.Plot | None:
    """Return the plot of one cost; None if no row has a figure to show.

    The front joins the points that no other beats in both directions.
    """
    axis = AXES[key]
    points, measure = _points(summary, axis), measure_name(summary)
    if not points:
        return None
    with canvas.drawing():
        figure, axes = canvas.new_plot(WIDTH, HEIGHT)
        axes.set_position((0.085, 0.13, 0.885, 0.845))
        axes.set_xlabel(axis.title)
        axes.set_ylabel(f"{measure} %")
        axes.grid(axis="y")
        _scale(axes, points)
        points = _dodge(axes, points)
        best = front([(point.x, point.y.value) for point in points])
        _draw_lines(axes, points, best)
        titles = _draw_points(axes, points, best, axis.unit)
        _draw_labels(axes, points, best)
        about = f"{measure} of each row against {axis.title}"
        return canvas.Plot(figure, f"pareto-{key}", about, titles)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return those (cost, score) that no other point beats, by rising cost.

    A point is beaten by one that costs no more and scores more, or costs less and scores as much.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    best: list[int] = []
    for i in order:
        if not best or points[i][1] > points[best[-1]][1]:
            best.append(i)
    return best


def _points(summary: Summary, axis: Axis) -> list[_Point]:
    costs = [axis.cost(row) for row in summary.rows]
    return [
        _Point(row, full_label(row, summary), float(x), _hundred(row.score))
        for row, x in zip(summary.rows, costs)
        if x > 0
    ]


def _hundred(estimate: Estimate) -> Estimate:
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def _scale(axes: Axes, points: Sequence[_Point]) -> None:
    """Set both limits with room for labels; a wide range of costs gets a logarithmic axis."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    xs = [point.x for point in points]
    least, most = min(xs), max(xs)
    if most / least > 3:
        axes.set_xscale("log")
        room = (most / least) ** 0.14
        axes.set_xlim(least / room, most * room)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.2 * ((most - least) or most)
        axes.set_xlim(least - room, most + room)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    low, high = min(point.y.low for point in points), max(point.y.high for point in points)
    margin = 0.06 * ((high - low) or 10)
    axes.set_ylim(low - margin, high + margin)


def _dodge(axes: Axes, points: Sequence[_Point]) -> list[_Point]:
    """Shift points of one cost sideways; the best of them keeps its place."""
    pixels = [_at(axes, point, point.y.value)[0] for point in points]
    clusters: list[list[int]] = []
    for i in sorted(range(len(points)), key=lambda i: pixels[i]):
        if clusters and pixels[i] - pixels[clusters[-1][0]] < DODGE:
            clusters[-1].append(i)
        else:
            clusters.append([i])
    shifts = [0.0] * len(points)
    for cluster in clusters:
        step = min(DODGE, 60 / len(cluster))
        for rank, i in enumerate(sorted(cluster, key=lambda i: -points[i].y.value)):
            shifts[i] = step * ((rank + 1) // 2) * (1 if rank % 2 else -1)
    return [replace(point, dodge=shift) for point, shift in zip(points, shifts)]


def _at(axes: Axes, point: _Point, height: float) -> tuple[float, float]:
    """Return the position of a point at this height, in pixels."""
    x, y = axes.transData.transform((point.x, height))
    return float(x) + point.dodge, float(y)


def _line(axes: Axes, places: Sequence[tuple[float, float]], **style: Any) -> Line2D:
    """Draw through places in pixels."""
    from matplotlib.transforms import IdentityTransform

    (line,) = axes.plot(*zip(*places), transform=IdentityTransform(), **style)
    return line


def _draw_lines(axes: Axes, points: Sequence[_Point], best: Sequence[int]) -> None:
    """Draw the front as steps, and a thin line through the budgets of each label."""
    corners = [_at(axes, points[i], points[i].y.value) for i in best]
    _line(axes, corners, drawstyle="steps-post", color=ACCENT, linewidth=1.6, alpha=0.8, zorder=2)
    by_label: dict[str, list[_Point]] = {}
    for point in points:
        if len(points) <= MANY or point.row.is_reference or point.row.control:
            by_label.setdefault(point.row.label, []).append(point)
    for same in by_label.values():
        places = sorted(_at(axes, point, point.y.value) for point in same)
        if len(same) > 1:
            _line(axes, places, color=MUTED, linewidth=0.7, alpha=0.6, zorder=1)


def _draw_points(
    axes: Axes, points: Sequence[_Point], best: Sequence[int], unit: str
) -> dict[str, str]:
    """Draw points and whiskers; return the hover text of each by its gid."""
    titles = {}
    for number, point in enumerate(points):
        row, gid = point.row, f"point-{number}"
        colour = ACCENT if number in best else MUTED
        ends = [_at(axes, point, point.y.low), _at(axes, point, point.y.high)]
        _line(axes, ends, color=colour, linewidth=0.9, alpha=0.55, zorder=2)
        mark = _line(
            axes,
            [_at(axes, point, point.y.value)],
            marker="s" if row.control else "o",
            markersize=8 if row.is_reference else 6,
            markerfacecolor=PAPER if row.control else colour,
            markeredgecolor=INK if row.is_reference else colour,
            markeredgewidth=1.4,
            linestyle="none",
            zorder=4,
        )
        mark.set_gid(gid)
        interval = f"{point.y.value:.1f} % [{point.y.low:.1f}, {point.y.high:.1f}]"
        titles[gid] = f"{point.label}: {interval} at {point.x:.4g} {unit}"
    return titles


def _draw_labels(axes: Axes, points: Sequence[_Point], best: Sequence[int]) -> None:
    """Write the labels where there is room, with thin lines to points that are not next to them."""
    from matplotlib.transforms import IdentityTransform

    # The front chooses first, then the reference and the controls.
    first = [*best, *(i for i, p in enumerate(points) if p.row.is_reference or p.row.control)]
    rest = range(len(points)) if len(points) <= MANY else ()
    wanted = list(dict.fromkeys([*first, *rest]))
    texts = [
        axes.text(
            0,
            0,
            canvas.elide(points[i].label, LABEL_LENGTH),
            fontsize=9,
            fontweight="bold" if points[i].row.is_reference else "normal",
            color=INK if i in best else MUTED,
            ha="center",
            va="center_baseline",
            parse_math=False,
            transform=IdentityTransform(),
            zorder=5,
        )
        for i in wanted
    ]
    pixels = [_at(axes, point, point.y.value) for point in points]
    sizes = [text.get_window_extent() for text in texts]
    labels = [
        Label(pixels[i], float(size.width) + 2, float(size.height) + 1)
        for i, size in zip(wanted, sizes)
    ]
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    whiskers = [
        Box(x - 1, _at(axes, point, point.y.low)[1], x + 1, _at(axes, point, point.y.high)[1])
        for point, (x, _) in zip(points, pixels)
    ]
    soft = [*whiskers, *_steps([pixels[i] for i in best])]
    left, bottom, right, top = map(float, axes.get_window_extent().extents)
    frame = Box(left + 2, bottom + 2, right, top)
    for text, label, box in zip(texts, labels, place(labels, frame, marks, soft)):
        if box is None:
            text.remove()
            continue
        text.set_position(box.centre)
        (x, y), (_, middle) = label.point, box.centre
        side = box.left if box.left > x else min(box.right, x)
        if abs(middle - y) > 9 or abs(side - x) > 12:
            _line(axes, [(x, y), (side, middle)], color=LINE, linewidth=0.7, zorder=1)


def _steps(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Return the boxes of the front's steps, to be kept free of labels."""
    boxes = []
    for (x, y), (right, top) in zip(corners, corners[1:]):
        boxes += [Box(x, y - 1, right, y + 1), Box(right - 1, y, right + 1, top)]
    return boxes
