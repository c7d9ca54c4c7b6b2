"""IDPruner: maximal marginal relevance, important tokens that are unlike each other."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector."""
    register("mmr", ".mmr:MmrSelector", "selector")
