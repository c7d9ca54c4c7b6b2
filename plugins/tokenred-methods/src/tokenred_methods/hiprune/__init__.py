"""HiPrune, arXiv 2508.00553, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring HiPrune's choice by two layers."""
    register("with-neighbours", ".with_neighbours:WithNeighboursSelector", "selector")
