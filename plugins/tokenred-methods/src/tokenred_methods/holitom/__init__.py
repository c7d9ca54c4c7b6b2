"""HoliTom: windows of frames in which as many tokens as possible repeat, merged over time."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring Register the dynamic programme over windows, Register the rule that goes with it."""
    register("static-windows", ".static_windows:StaticWindowsSegmenter", "segmenter")
    register("consecutive", ".consecutive:ConsecutiveRule", "static rule")
