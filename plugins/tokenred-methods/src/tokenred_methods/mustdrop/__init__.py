"""MustDrop, arXiv 2411.10803."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring windows of alike tokens, and the two thresholds inside the LLM."""
    register("alike-windows", ".windows:AlikeWindowsGrouper", "token grouper")
    register("two-thresholds", ".ranker:TwoThresholdsRanker", "token ranker")
