"""DART, arXiv 2502.11494: what duplicates leaves, and a few pivots say what a duplicate is."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the ranking by distance from pivots."""
    register("far-from-pivots", ".ranker:PivotRanker", "token ranker")
