"""STTM: quadtrees inside frames, united over time."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Register the quadtree."""
    register("quadtree", ".quadtree:QuadtreeGrouper", "token grouper")
