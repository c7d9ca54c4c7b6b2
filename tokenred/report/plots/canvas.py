"""Figures without pyplot, and their SVG: equal input gives equal text, colours come from CSS."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 72
"""Of SVG files, so that what is measured before drawing is what is drawn."""

# Each colour stands for a CSS variable of the page, which knows light, dark and print.
INK = "#010101"
MUTED = "#020202"
LINE = "#030303"
PAPER = "#040404"
ACCENT = "#050505"
WORSE = "#060606"
BAND = "#070707"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    ACCENT: "accent",
    WORSE: "worse",
    BAND: "band",
}
_TAG = re.compile(r"<[^>]*>")
_FONT = re.compile(r"'DejaVu Sans'[^;\"]*")
_ID = re.compile(r'\b(id="|href="#|url\(#)')

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tokenred",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Use the style of the report in this block.

    Labels in scripts that the measuring font lacks draw no warning: the browser has its own fonts.
    """
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_plot(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this many pixels with one axes that fills it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure, figure.add_axes((0.0, 0.0, 1.0, 1.0))


def to_svg(figure: Figure, name: str, about: str, titles: Mapping[str, str]) -> str:
    """Return the SVG element of a figure, for use inside HTML.

    Parameters
    ----------
    name : prefix of all ids, so that several plots fit on one page
    about : what a screen reader says
    titles : gid of an artist -> text that shows when the mouse rests on it
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = _TAG.sub(lambda tag: _themed(tag[0], name), svg)
    for gid, title in titles.items():
        mark = f'<g id="{name}-{gid}">'
        svg = svg.replace(mark, f"{mark}<title>{escape(title)}</title>", 1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(about)}"', 1).strip()


def _themed(tag: str, name: str) -> str:
    """Return a tag with the page's colours and font, and ids of its own; texts stay as they are."""
    tag = _FONT.sub("var(--font)", _ID.sub(rf"\g<1>{name}-", tag))
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    return tag


def elide(label: str, length: int) -> str:
    """Return a label of at most ``length`` characters on one line."""
    label = " ".join(label.split())
    return label if len(label) <= length else label[: length - 1].rstrip() + "…"
