"""PACT, arXiv 2504.08966: prune what keys and norms call unimportant, cluster what stays."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the ranking without attention, and the clusters of what it keeps."""
    register("key-query", ".ranker:KeyQueryRanker", "token ranker")
    register("clustered", ".reducer:ClusteredReducer", "layer reducer")
