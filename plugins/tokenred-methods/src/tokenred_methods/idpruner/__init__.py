"""IDPruner, arXiv 2602.13315, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring maximal marginal relevance."""
    register("marginal-relevance", ".marginal_relevance:MarginalRelevanceSelector", "selector")
