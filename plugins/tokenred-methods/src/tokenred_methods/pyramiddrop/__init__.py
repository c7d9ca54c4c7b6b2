"""PyramidDrop, arXiv 2410.17247."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring attention that the next layer would give."""
    register("next-layer", ".ranker:NextLayerRanker", "token ranker")
