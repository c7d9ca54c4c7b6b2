"""Visualisation of a reduction: pure functions from a result to a figure.

``View`` joins a clip, its frames and what a pipeline made of it. ``overlay``, ``anchor_map`` and
``timeline`` draw views into a figure of matplotlib, ``animation`` into a GIF. Everything is read
from the trace, so it works for any method.
"""

from tokenred.report.viz.anchors import STRONGEST, Anchor, anchor_map, find_anchor
from tokenred.report.viz.animation import animation
from tokenred.report.viz.fates import Fate, Fates, fates_of
from tokenred.report.viz.from_model import views_of
from tokenred.report.viz.overlay import overlay
from tokenred.report.viz.style import to_png
from tokenred.report.viz.timeline import timeline
from tokenred.report.viz.view import View

__all__ = [
    "STRONGEST",
    "Anchor",
    "Fate",
    "Fates",
    "View",
    "anchor_map",
    "animation",
    "fates_of",
    "find_anchor",
    "overlay",
    "timeline",
    "to_png",
    "views_of",
]
