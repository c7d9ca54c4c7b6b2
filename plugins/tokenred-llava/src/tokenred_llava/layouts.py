"""What the ``llava`` package calls the layouts of a video."""

from collections.abc import Mapping

from tokenred.models.splice import Newlines

NEWLINES: Mapping[str, Newlines] = {
    "one_token": "end",
    "grid": "row",
    "frame": "frame",
    "no_token": "none",
}
"""The package's names of where newline tokens stand -> ours."""
