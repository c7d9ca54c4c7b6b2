"""ToMe: bipartite soft matching."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the choice of what merges, the two kinds of tokens, and merging in rounds."""
    register("bipartite", ".selector:BipartiteSelector", "selector")
    register("bipartite", ".cost:BipartiteCost", "cost term")
    register("rounds-frame", ".stages:RoundsFrameStage", "stage")
