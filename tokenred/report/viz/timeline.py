"""Timeline of a video: frames, segments, and kept tokens a frame."""

from collections.abc import Sequence
from typing import Any

from tokenred.errors import InputError
from tokenred.report.viz.overlay import HEAD, LINE
from tokenred.report.viz.style import (
    ANCHOR,
    BAND,
    BORDER,
    FONT,
    INK,
    LOST,
    MARGIN,
    UNTOUCHED,
    draw_legend,
    new_figure,
    panel,
    write,
)
from tokenred.report.viz.view import View

LEFT = 0.62
"""Inches left of the bars."""
BARS, AXIS = 1.15, 0.42
NUMBERED = 16
"""Up to so many frames, every bar has its number."""


def timeline(views: Sequence[View], *, title: str = "") -> Any:
    """Draw frames along a line, and under them the kept tokens of every pipeline.

    Shaded bands are segments; a pipeline that cuts nothing has one.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if not views:
        raise InputError("there is nothing to draw")
    shown = max(views, key=lambda view: len(view.pixels))
    frames = len(shown.pixels)
    across = min(15.0, max(5.4, 1.1 * frames))
    height, width = shown.pixels.shape[1:3]
    strip = across / frames * min(1.5, height / width)
    top = MARGIN + (HEAD if title else 0.0)
    whole = top + strip + len(views) * (LINE + BARS) + AXIS + 0.25 + MARGIN / 2
    figure = new_figure(LEFT + across + MARGIN, whole, title)
    _draw_strip(panel(figure, LEFT, top, across, strip), shown)
    top += strip
    most = max(max(view.reduced.realised.tokens_per_frame) for view in views)
    for view in views:
        write(figure, LEFT, top + 0.08, view.title, weight="bold", fontsize=9.5)
        axes = panel(figure, LEFT, top + LINE, across, BARS)
        _draw_bars(axes, view, frames, most)
        top += LINE + BARS
    axes.set_xticks([frame + 0.5 for frame in _ticked(frames)])
    axes.set_xticklabels([_short(shown.labels[frame]) for frame in _ticked(frames)], **FONT)
    write(figure, LEFT + across / 2, top + 0.24, "frame", ha="center")
    _draw_key(figure, views, top + AXIS + 0.05)
    return figure


def _short(label: str) -> str:
    return label.removeprefix("frame ")


def _ticked(frames: int) -> range:
    return range(0, frames, -(-frames // 20))


def _draw_strip(axes: Any, view: View) -> None:
    frames = len(view.pixels)
    for frame in range(frames):
        image = view.pixels[frame].numpy()
        axes.imshow(image, extent=(frame + 0.03, frame + 0.97, 0, 1), aspect="auto")
    axes.set_xlim(0, frames)
    axes.set_ylim(0, 1)
    axes.set_axis_off()


def _draw_bars(axes: Any, view: View, frames: int, most: int) -> None:
    anchors, lost = view.fates.anchors, view.leaves_inside
    base = [0] * len(view.pixels)
    for mask, colour, hatch in (
        (anchors & ~lost, ANCHOR, ""),
        (~anchors & ~lost, UNTOUCHED, ""),
        (lost, LOST, "///"),
    ):
        counts = view.per_frame(mask)
        if any(counts):
            axes.bar(
                [frame + 0.5 for frame in range(len(counts))],
                counts,
                width=0.7,
                bottom=base,
                color=colour,
                edgecolor=INK,
                linewidth=0.5,
                hatch=hatch,
            )
        base = [low + count for low, count in zip(base, counts)]
    if frames <= NUMBERED:
        for frame, count in enumerate(base):
            axes.text(frame + 0.5, count + 0.03 * most, str(count), ha="center", **FONT)
    borders = view.borders
    for number, (first, end) in enumerate(zip(borders, borders[1:])):
        axes.axvspan(first, end, color=BAND[number % 2], zorder=-2, linewidth=0)
        if len(borders) > 2 and len(borders) - 1 <= NUMBERED:
            place = {"transform": axes.get_xaxis_transform(), "va": "top", "ha": "left"}
            style = {**FONT, "fontsize": 7.5, "color": BORDER}
            axes.text(
                first + 0.012 * frames,
                0.97,
                f"segment {number + 1}" if (end - first) / frames > 0.1 else str(number + 1),
                **place,
                **style,
            )
    for first in borders[1:-1]:
        axes.axvline(first, color=BORDER, linewidth=2)
    axes.set_xlim(0, frames)
    axes.set_ylim(0, 1.32 * max(1, most))
    axes.set_xticks([])
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=4)
    axes.tick_params(labelsize=8, colors=INK, length=2)
    axes.set_ylabel("tokens", **FONT)
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)


def _draw_key(figure: Any, views: Sequence[View], top: float) -> None:
    """Write what the bars mean."""
    from matplotlib.patches import Rectangle

    anchors = any(bool(view.fates.anchors.any()) for view in views)
    untouched = any(bool((~view.fates.anchors).any()) for view in views)
    lost = any(bool(view.leaves_inside.any()) for view in views)
    cut = any(len(view.borders) > 2 for view in views)
    wanted: tuple[tuple[bool, dict[str, Any], str], ...] = (
        (anchors, {"facecolor": ANCHOR}, "anchors"),
        (untouched, {"facecolor": UNTOUCHED}, "untouched"),
        (lost, {"facecolor": LOST, "hatch": "///"}, "lost inside the LLM"),
        (cut, {"facecolor": BORDER}, "border of a segment"),
    )
    entries = [
        (Rectangle((0, 0), 1, 1, edgecolor=INK, linewidth=0.5, **style), text)
        for present, style, text in wanted
        if present
    ]
    draw_legend(figure, entries, top, LEFT)
