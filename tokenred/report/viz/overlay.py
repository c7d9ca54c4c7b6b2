"""Overlay of kept, merged and dropped patches on the frames."""

from collections.abc import Sequence
from typing import Any

from tokenred.errors import InputError
from tokenred.report.viz.style import (
    BORDER,
    GAP,
    MARGIN,
    draw_frame,
    draw_legend,
    draw_tokens,
    legend_entries,
    legend_height,
    new_figure,
    panel,
    panel_height,
    panel_width,
    place_box,
    write,
)
from tokenred.report.viz.view import View

COLUMNS = 8
"""Frames in a row; longer videos take several rows."""
HEAD, LINE, LABEL = 0.32, 0.27, 0.19


def overlay(views: Sequence[View], *, title: str = "", columns: int = COLUMNS) -> Any:
    """Draw the frames of a video, and under them the overlay of every pipeline.

    Parameters
    ----------
    views : of the same clip, one a pipeline
    title : stands above everything
    columns : frames side by side

    Returns
    -------
    matplotlib.figure.Figure
    """
    if not views:
        raise InputError("there is nothing to draw")
    frames = max(len(view.pixels) for view in views)
    across = min(columns, frames)
    wide = panel_width(views)
    high = max(panel_height(view, wide) for view in views)
    width = max(5.6, 2 * MARGIN + across * (wide + GAP) - GAP)
    legend = legend_entries(views)
    block = LABEL + high + GAP + len(views) * (LINE + high + LABEL) + 2 * GAP
    blocks = -(-frames // across)
    top = MARGIN + (HEAD if title else 0.0)
    height = top + blocks * block + legend_height(legend, width) + MARGIN / 2
    figure = new_figure(width, height, title)
    for first in range(0, frames, across):
        _draw_block(figure, views, range(first, min(frames, first + across)), top, (wide, high))
        top += block
    draw_legend(figure, legend, top)
    return figure


def _draw_block(
    figure: Any, views: Sequence[View], frames: range, top: float, size: tuple[float, float]
) -> None:
    wide, high = size
    shown = max(views, key=lambda view: len(view.pixels))
    for column, frame in enumerate(frames):
        left = MARGIN + column * (wide + GAP)
        write(figure, left, top, shown.labels[frame])
        draw_frame(panel(figure, left, top + LABEL, wide, high), shown, frame)
    top += LABEL + high + GAP
    for view in views:
        write(figure, MARGIN, top + 0.05, view.title, weight="bold", fontsize=9.5)
        counts = view.reduced.realised.tokens_per_frame
        for column, frame in enumerate(frames):
            if frame >= len(counts):
                continue
            left = MARGIN + column * (wide + GAP)
            axes = panel(figure, left, top + LINE, wide, high)
            draw_frame(axes, view, frame)
            draw_tokens(axes, view, frame)
            below = top + LINE + high + 0.02
            noun = "token" if counts[frame] == 1 else "tokens"
            write(figure, left + wide, below, f"{counts[frame]} {noun}", ha="right")
            if frame in view.borders and len(view.borders) > 2:
                _draw_border(figure, left - GAP / 2, top + LINE - 0.02, high + 0.04)
                number = view.borders.index(frame) + 1
                write(figure, left, below, f"segment {number}", color=BORDER)
        top += LINE + high + LABEL


def _draw_border(figure: Any, left: float, top: float, high: float) -> None:
    """Draw a bar where a segment begins."""
    from matplotlib.patches import Rectangle

    bar = Rectangle((0, 0), 1, 1, color=BORDER, linewidth=0)
    place_box(figure, bar, left - 0.02, top, 0.04, high)
