"""Figures without pyplot, and their SVG: equal input gives equal text, colours come from CSS."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from itertools import product
from typing import TYPE_CHECKING, Any

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
_COLOURED = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
"""What an artist may have a colour for."""
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


@dataclass(frozen=True)
class Plot:
    """A figure that is drawn, for the page and for files of its own.

    Attributes
    ----------
    name : prefix of all ids on the page, so that several plots fit there, and of its files
    about : what a screen reader says
    titles : gid of an artist -> text that shows when the mouse rests on it
    """

    figure: Figure
    name: str
    about: str
    titles: Mapping[str, str]

    def svg(self) -> str:
        """Return the SVG element for use inside HTML."""
        svg = self._saved("svg", {}, Date=None, Creator=None).decode()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
        svg = _TAG.sub(lambda tag: _themed(tag[0], self.name), svg)
        for gid, title in self.titles.items():
            mark = f'<g id="{self.name}-{gid}">'
            svg = svg.replace(mark, f"{mark}<title>{escape(title)}</title>", 1)
        return svg.replace("<svg", f'<svg role="img" aria-label="{escape(self.about)}"', 1).strip()

    def file(self, form: str) -> bytes:
        """Return a pdf or svg file in the page's colours for print, with all letters in it."""
        with _printed(self.figure):
            if form == "pdf":
                return self._saved("pdf", {"pdf.fonttype": 42}, CreationDate=None)
            return self._saved("svg", {"svg.fonttype": "path"}, Date=None)

    def _saved(self, form: str, style: Mapping[str, Any], **metadata: None) -> bytes:
        import matplotlib

        data = io.BytesIO()
        with drawing(), matplotlib.rc_context(dict(style)):
            self.figure.savefig(data, format=form, metadata=metadata, bbox_inches=None)
        return data.getvalue()


@contextmanager
def _printed(figure: Figure) -> Iterator[None]:
    """Give every artist the page's colour for print in this block."""
    from matplotlib.colors import to_hex

    with drawing():
        figure.draw_without_rendering()  # which makes the ticks
    colours, changed = _print_colours(), []
    for artist, name in product(figure.findobj(), _COLOURED):
        setter = getattr(artist, f"set_{name}", None)
        old = getattr(artist, f"get_{name}", str)()
        with suppress(ValueError):  # "none", or colours of many
            if setter is not None and to_hex(old) in colours:
                setter(colours[to_hex(old)])
                changed.append((setter, old))
    try:
        yield
    finally:
        for setter, old in changed:
            setter(old)


@cache
def _print_colours() -> dict[str, str]:
    """Return the colour of paper that each stands for, which the style of the page begins with."""
    style = files("tokenred.report").joinpath("templates/style.css").read_text("utf-8")
    found = dict(reversed(re.findall(r"--(\w+): (#[0-9a-f]{6})", style)))
    return {colour: found[name] for colour, name in _VARIABLES.items()}


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
