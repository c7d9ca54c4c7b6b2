"""HoliTom: windows of frames in which as many tokens as possible repeat, merged over time."""

from tokenred import hookimpl


@hookimpl
def register_segmenters(register):
    """Register the dynamic programme over windows."""
    register("static-windows", ".static_windows:StaticWindowsSegmenter", "StaticWindowsConfig")


@hookimpl
def register_static_rules(register):
    """Register the rule that goes with it."""
    register("consecutive", ".consecutive:ConsecutiveRule", "ConsecutiveConfig")
