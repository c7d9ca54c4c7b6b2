"""The scaling curves as SVG files for the docs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenred.report.plots import canvas

WIDTH, HEIGHT = 420.0, 280.0
TITLES = {
    "frames": "frames",
    "tokens": "tokens a frame",
    "anchors": "anchors a frame",
    "features": "features of a token",
}
# The page is light or dark as its reader likes, and an image cannot know: legible on both.
COLOURS = {"ink": "#7a828c", "muted": "#7a828c", "line": "#7a828c55", "accent": "#2f8f83"}
FONT = "sans-serif"


def draw(axis: str, curve: Mapping[str, Any]) -> str:
    """Return the SVG of one curve: time (left, solid) and memory (right, dashed), both logarithmic.

    The thin line through the last point is what linear growth would be.
    """
    points = curve["points"]
    sizes = [point["at"] for point in points]
    times = [point["median_ms"] for point in points]
    with canvas.drawing():
        figure, axes = canvas.new_plot(WIDTH, HEIGHT)
        axes.set_position((0.14, 0.16, 0.72, 0.78))
        _linear(axes, sizes, times)
        axes.plot(sizes, times, color=canvas.ACCENT, marker="o", markersize=5, linewidth=1.6)
        _axis(axes, sizes)
        axes.set_xlabel(TITLES[axis])
        axes.set_ylabel("CPU time, ms (solid)")
        known = [(p["at"], p["extra_bytes"] / 1e6) for p in points if p["extra_bytes"]]
        if known:
            right = axes.twinx()
            right.set_position(axes.get_position())
            right.plot(*zip(*known), color=canvas.MUTED, marker="s", markersize=4, linestyle="--")
            right.set_yscale("log")
            right.set_ylabel("extra memory, MB (dashed)")
        about = f"CPU time and memory against {TITLES[axis]}"
        svg = canvas.Plot(figure, f"speed-{axis}", about, {}).svg()
    for name, colour in COLOURS.items():
        svg = svg.replace(f"var(--{name})", colour)
    svg = svg.replace("var(--paper)", "none").replace("var(--font)", FONT)
    return svg + "\n"


def _axis(axes: Any, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(sizes)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(axis="y")


def _linear(axes: Any, sizes: Sequence[int], times: Sequence[float]) -> None:
    straight = [times[-1] * size / sizes[-1] for size in sizes]
    axes.plot(sizes, straight, color=canvas.LINE, linewidth=1.0)


def write(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write one file an axis; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for axis, curve in record["scaling"].items():
        paths.append(folder / f"speed-{axis}.svg")
        paths[-1].write_text(draw(axis, curve))
    return paths
