"""HoliTom: windows of frames in which as many tokens as possible repeat, merged over time."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the dynamic programme over windows, its rule, and the merge inside the LLM."""
    register("static-windows", ".static_windows:StaticWindowsSegmenter", "segmenter")
    register("consecutive", ".consecutive:ConsecutiveRule", "static rule")
    register("fold", ".fold:FoldMerger", "layer merger")
