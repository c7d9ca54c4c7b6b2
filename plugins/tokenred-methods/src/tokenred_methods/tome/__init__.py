"""ToMe: bipartite soft matching."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring Register the choice of what merges, Register the two kinds of tokens."""
    register("bipartite", ".selector:BipartiteSelector", "selector")
    register("bipartite", ".cost:BipartiteCost", "cost term")
    register("rounds-frame", ".stages:RoundsFrameStage", "stage")
