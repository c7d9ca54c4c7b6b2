"""DyCoke, arXiv 2411.15024, as a strategy and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the order in which frames are compared, and the pruning of the cache."""
    register("dyadic", ".dyadic:DyadicReference", "frame reference")
    register("dycoke", ".cache:DycokeCachePruner", "cache pruner")
