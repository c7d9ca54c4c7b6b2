"""A GIF of the video beside the tokens that every pipeline keeps."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from tokenred.errors import InputError
from tokenred.report.viz.overlay import LABEL, LINE
from tokenred.report.viz.style import (
    BAND,
    BORDER,
    GAP,
    INK,
    MARGIN,
    draw_frame,
    draw_legend,
    draw_tokens,
    legend_entries,
    legend_height,
    new_figure,
    panel,
    panel_height,
    write,
)
from tokenred.report.viz.view import View

FRAME, LINE_HEIGHT = 2.7, 0.11
"""Width of a frame, and height of the line that shows where in the video it stands, in inches."""
SHOWN_MS = 600


def animation(views: Sequence[View], *, title: str = "", frame_ms: int = SHOWN_MS) -> bytes:
    """Return a GIF with one image for every frame of the video.

    Parameters
    ----------
    views : of the same clip, one a pipeline; they stand side by side
    title : stands above everything
    frame_ms : how long a frame is shown, in ms
    """
    from PIL import Image

    if not views:
        raise InputError("there is nothing to draw")
    frames = max(len(view.pixels) for view in views)
    images = []
    for frame in range(frames):
        figure = _image(views, frame, title)
        figure.canvas.draw()
        size = figure.canvas.get_width_height()
        whole = Image.frombytes("RGBA", size, bytes(figure.canvas.buffer_rgba())).convert("RGB")
        images.append(whole.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    data = BytesIO()
    images[0].save(
        data,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=frame_ms,
        loop=0,
        optimize=False,
    )
    return data.getvalue()


def _image(views: Sequence[View], frame: int, title: str) -> Any:
    shown = max(views, key=lambda view: len(view.pixels))
    high = max(panel_height(view, FRAME) for view in views)
    width = 2 * MARGIN + (len(views) + 1) * (FRAME + GAP) - GAP
    top = MARGIN + (LINE if title else 0.0)
    legend = legend_entries(views)
    below = top + LINE + high + LABEL + LINE_HEIGHT + 2 * GAP
    figure = new_figure(width, below + legend_height(legend, width) + MARGIN, title, fontsize=10.0)
    write(figure, MARGIN, top + 0.05, shown.labels[frame], fontsize=9.5)
    draw_frame(panel(figure, MARGIN, top + LINE, FRAME, high), shown, frame)
    for column, view in enumerate(views, start=1):
        if frame >= len(view.pixels):
            continue
        left = MARGIN + column * (FRAME + GAP)
        write(figure, left, top + 0.05, view.name, weight="bold", fontsize=9.5)
        axes = panel(figure, left, top + LINE, FRAME, high)
        draw_frame(axes, view, frame)
        draw_tokens(axes, view, frame)
        kept = view.reduced.realised
        cells = view.reduced.grid[0] * view.reduced.grid[1]
        text = f"{kept.tokens_per_frame[frame]} of {cells} here, {kept.n_tokens} in all"
        write(figure, left, top + LINE + high + 0.03, text)
        _draw_line(figure, view, frame, left, top + LINE + high + LABEL + GAP / 2)
    draw_legend(figure, legend, below)
    return figure


def _draw_line(figure: Any, view: View, frame: int, left: float, top: float) -> None:
    """Show the segments, and where in the video this frame stands."""
    axes = panel(figure, left, top, FRAME, LINE_HEIGHT)
    for number, (first, end) in enumerate(zip(view.borders, view.borders[1:])):
        axes.axvspan(first, end, color=BAND[number % 2], linewidth=0)
    axes.axvspan(frame, frame + 1, color=INK, linewidth=0)
    for first in view.borders[1:-1]:
        axes.axvline(first, color=BORDER, linewidth=2)
    axes.set_xlim(0, len(view.pixels))
    axes.set_ylim(0, 1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)
