"""STTM: quadtrees inside frames, united over time."""

from tokenred import hookimpl


@hookimpl
def register_token_groupers(register):
    """Register the quadtree."""
    register("quadtree", ".quadtree:QuadtreeGrouper", "QuadtreeConfig")
