"""Shared colours, cells and layout of the figures."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.report.viz.fates import Fate
from tokenred.report.viz.view import View

# Okabe and Ito's palette. Brightness tells the classes apart as well: dropped patches are dark,
# merged ones pale, kept ones as they are.
UNTOUCHED = "#56B4E9"
ANCHOR = "#E69F00"
LOST = "#CC79A7"
BORDER = "#D55E00"
INK = "#222222"
STRUCK = "#8A8A8A"
BAND = ("#E4E4E4", "#F6F6F6")

VEILS = {
    Fate.UNREAD: (0.5, 0.5, 0.5, 1.0),
    Fate.DROPPED: (0.07, 0.07, 0.09, 0.80),
    Fate.MERGED: (0.93, 0.95, 0.98, 0.66),
    Fate.KEPT: (0.0, 0.0, 0.0, 0.0),
}
"""Fate of a patch to the red, green, blue and opacity of what is laid over it."""

DPI = 110
"""Dots per inch of every image."""
GAP, MARGIN = 0.09, 0.15
"""Space between frames, and around everything, in inches."""
CELL, NARROW, WIDE = 0.14, 1.4, 2.4
"""Width of a cell that can be read, and of the narrowest and the widest frame, in inches."""
FONT = {"fontsize": 8.5, "color": INK}


def new_figure(width: float, height: float, title: str, fontsize: float = 11.0) -> Any:
    """Return a figure with a title, sizes in inches, with its own canvas and no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        write(figure, MARGIN, MARGIN, title, fontsize=fontsize, weight="bold")
    return figure


def panel(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Return axes at a place in inches, counted from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


def write(figure: Any, left: float, top: float, text: str, **options: Any) -> None:
    """Write text at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    style = {**FONT, "va": "top", "ha": "left", **options}
    figure.text(left / across, 1 - top / down, literal(text), **style)


def literal(text: str) -> str:
    """Keep matplotlib from reading a name as a formula."""
    return text.replace("$", r"\$")


def panel_width(views: Sequence[View]) -> float:
    """Return how wide the frames are drawn, in inches: wider if the grid is fine."""
    return min(WIDE, max(NARROW, CELL * max(view.reduced.grid[1] for view in views)))


def panel_height(view: View, width: float) -> float:
    """Return how high a frame is, at its own proportions within reason."""
    height, across = view.pixels.shape[1:3]
    return width * min(2.0, max(0.25, height / across))


def line_width(axes: Any, view: View, points: float) -> float:
    """Return a width in points, thinner where cells are small."""
    box, (across, down) = axes.get_position(), axes.figure.get_size_inches()
    side = min(box.width * across / view.reduced.grid[1], box.height * down / view.reduced.grid[0])
    return points * min(1.0, max(0.5, side / 0.19))


def draw_frame(axes: Any, view: View, frame: int, *, grey: bool = False) -> None:
    """Draw a frame, in units of the encoder's patches; ``grey`` puts it behind colours."""
    image = view.pixels[frame].numpy()
    rows, columns = view.grid
    place = {"extent": (0, columns, rows, 0), "aspect": "auto"}
    if grey:
        light = view.pixels[frame].float().mean(-1).numpy() / 255
        axes.imshow(0.15 + 0.45 * light, cmap="gray", vmin=0, vmax=1, **place)
    else:
        axes.imshow(image, **place)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.5)


def draw_tokens(axes: Any, view: View, frame: int) -> None:
    """Draw the fates of the patches over a frame, and outline the cells of kept tokens."""
    from matplotlib.collections import LineCollection, PatchCollection

    rows, columns = view.grid
    axes.imshow(
        veil(view.fates.patches[frame].view(rows, columns)).numpy(),
        extent=(0, columns, rows, 0),
        aspect="auto",
        interpolation="nearest",
    )
    _strike_dropped(axes, view, frame)
    here = view.reduced.frame_index.cpu() == frame
    anchors, lost = view.fates.anchors, view.leaves_inside
    for mask, colour, width in ((~anchors, UNTOUCHED, 1.1), (anchors, ANCHOR, 1.8)):
        boxes = _boxes(view, here & mask & ~lost)
        for line, edge in ((width + 1.0, "black"), (width, colour)):
            thin = line_width(axes, view, line)
            axes.add_collection(
                PatchCollection(boxes, facecolor="none", edgecolor=edge, linewidth=thin)
            )
    for layer in view.lost_before:
        boxes = _boxes(view, here & lost & (view.entered == layer))
        opacity = lost_opacity(view, layer)
        axes.add_collection(PatchCollection(boxes, facecolor=LOST, alpha=opacity))
        corners = [box.get_corners() for box in boxes]
        strokes = [[each[3], each[1]] for each in corners]
        axes.add_collection(
            LineCollection(strokes, colors="black", linewidths=line_width(axes, view, 0.9))
        )


def _boxes(view: View, mask: Tensor) -> list[Any]:
    """Return the cells of some tokens as rectangles, a little inside their borders."""
    from matplotlib.patches import Rectangle

    inset = 0.045 * view.grid[1] / view.reduced.grid[1]
    cells = view.reduced.token_index.cpu()[mask].tolist()
    places = [cell_box(view, cell, inset) for cell in cells]
    return [Rectangle((left, top), wide, high) for left, top, wide, high in places]


def _strike_dropped(axes: Any, view: View, frame: int) -> None:
    """Strike dropped patches through, as a dark veil says little on a dark frame."""
    from matplotlib.collections import LineCollection

    dropped = (view.fates.patches[frame] == Fate.DROPPED).nonzero()[:, 0].tolist()
    corners = [divmod(place, view.grid[1]) for place in dropped]
    strokes = [[(x + 0.2, y + 0.8), (x + 0.8, y + 0.2)] for y, x in corners]
    axes.add_collection(
        LineCollection(strokes, colors=STRUCK, linewidths=line_width(axes, view, 0.6))
    )


def lost_opacity(view: View, layer: int) -> float:
    """Return the opacity over a token that is dropped before a layer: higher if earlier."""
    return 0.9 - 0.6 * layer / max(1, view.n_layers - 1)


def veil(fates: Tensor) -> Float[Tensor, "rows columns 4"]:
    """Return the colour that is laid over every patch."""
    table = torch.tensor([VEILS[fate] for fate in sorted(Fate)])
    return table[fates]


def cell_box(view: View, cell: int, inset: float = 0.0) -> tuple[float, float, float, float]:
    """Return left, top, width and height of an LLM cell, in patches of the encoder."""
    rows, columns = view.reduced.grid
    high, wide = view.grid[0] / rows, view.grid[1] / columns
    row, column = divmod(cell, columns)
    return (
        column * wide + inset,
        row * high + inset,
        wide - 2 * inset,
        high - 2 * inset,
    )


def legend_entries(views: Sequence[View]) -> list[tuple[Any, str]]:
    """Return colour sample and label of every class in these views."""
    from matplotlib.patches import Rectangle

    def box(**style: Any) -> Any:
        return Rectangle((0, 0), 1, 1, **style)

    found = {Fate(int(code)) for view in views for code in view.fates.patches.unique()}
    anchors = torch.cat([view.fates.anchors for view in views])
    entries = []
    if bool((~anchors).any()):
        style = {"facecolor": "white", "edgecolor": UNTOUCHED, "linewidth": 1.6}
        entries.append((box(**style), "kept, untouched"))
    if bool(anchors.any()):
        style = {"facecolor": "white", "edgecolor": ANCHOR, "linewidth": 2.2}
        entries.append((box(**style), "kept as an anchor, took others in"))
    for fate, text in (
        (Fate.MERGED, "merged into tokens elsewhere"),
        (Fate.DROPPED, "dropped, in no token"),
        (Fate.UNREAD, "not read even unreduced"),
    ):
        if fate in found:
            red, green, blue, opacity = VEILS[fate]  # over an image of medium grey
            mixed = tuple(part * opacity + 0.5 * (1 - opacity) for part in (red, green, blue))
            style = {"facecolor": mixed, "edgecolor": STRUCK, "linewidth": 0.5}
            style["hatch"] = "//" if fate == Fate.DROPPED else ""
            entries.append((box(**style), text))
    for view in views:
        for layer, count in view.lost_before.items():
            style = {"facecolor": LOST, "edgecolor": INK, "hatch": "//", "linewidth": 0.5}
            name = f"{view.name}: " if len(views) > 1 else ""
            sample = box(**style, alpha=lost_opacity(view, layer))
            entries.append((sample, f"{name}{count} gone before layer {layer} of the LLM"))
    return entries


LEGEND_ROW, LETTER = 0.21, 0.07
"""Height of a row of a legend, and width of a letter, in inches."""


def legend_places(texts: Sequence[str], width: float) -> list[tuple[float, int]]:
    """Return left position in inches and row of each legend entry."""
    places, left, row = [], 0.0, 0
    for text in texts:
        wide = 0.55 + LETTER * len(text)
        if left and left + wide - 0.25 > width:
            left, row = 0.0, row + 1
        places.append((left, row))
        left += wide
    return places


def legend_height(entries: Sequence[tuple[Any, str]], width: float) -> float:
    """Return the height of a legend in inches, for a figure of this width."""
    places = legend_places([text for _, text in entries], width - 2 * MARGIN)
    return LEGEND_ROW * (places[-1][1] + 1) + 0.05 if places else 0.0


def draw_legend(
    figure: Any, entries: Sequence[tuple[Any, str]], top: float, left: float = MARGIN
) -> None:
    """Draw the legend, row by row."""
    across, _ = figure.get_size_inches()
    places = legend_places([text for _, text in entries], across - left - MARGIN)
    for (sample, text), (shift, row) in zip(entries, places):
        above = top + row * LEGEND_ROW
        place_box(figure, sample, left + shift, above + 0.03, 0.18, 0.12)
        write(figure, left + shift + 0.26, above + 0.02, text)


def place_box(figure: Any, box: Any, left: float, top: float, width: float, height: float) -> None:
    """Put a rectangle at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    box.set_bounds(left / across, 1 - (top + height) / down, width / across, height / down)
    figure.add_artist(box)


def to_png(figure: Any) -> bytes:
    """Return a figure as a PNG; the same figure gives the same bytes."""
    data = BytesIO()
    figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None})
    return data.getvalue()
