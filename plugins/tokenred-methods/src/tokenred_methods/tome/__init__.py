"""ToMe: bipartite soft matching."""

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Register the choice of what merges."""
    register("bipartite", ".selector:BipartiteSelector", "BipartiteConfig")


@hookimpl
def register_cost_terms(register):
    """Register the two kinds of tokens."""
    register("bipartite", ".cost:BipartiteCost", "BipartiteCostConfig")
