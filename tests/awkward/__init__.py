"""Awkward videos, each of whose frames carries its number in pixels, and what is right about them.

``VIDEOS`` lists them by name; ``make`` writes one. Everything is deterministic and small, so that a
test session makes what it needs in seconds.
"""

from awkward.cases import REFUSED, VIDEOS, Awkward
from awkward.pixels import numbered, read_number, read_numbers
from awkward.writing import write_video

__all__ = [
    "REFUSED",
    "VIDEOS",
    "Awkward",
    "numbered",
    "read_number",
    "read_numbers",
    "write_video",
]
