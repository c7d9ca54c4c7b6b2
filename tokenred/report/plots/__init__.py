"""Plots of a summary: an SVG with the colours of the page around it, or a file of its own."""

from tokenred.evaluation.summary import Summary
from tokenred.report.plots.canvas import Plot
from tokenred.report.plots.forest import forest
from tokenred.report.plots.pareto import AXES, front, pareto

__all__ = ["AXES", "Plot", "forest", "front", "pareto", "plots"]


def plots(summary: Summary) -> list[Plot]:
    """Return every plot that the summary has figures for."""
    drawn = [*(pareto(summary, key) for key in AXES), forest(summary)]
    return [each for each in drawn if each is not None]
