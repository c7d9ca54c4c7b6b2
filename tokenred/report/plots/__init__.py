"""Plots of a summary, each an SVG that takes its colours from the page around it."""

from tokenred.report.plots.forest import forest
from tokenred.report.plots.pareto import AXES, front, pareto

__all__ = ["AXES", "forest", "front", "pareto"]
