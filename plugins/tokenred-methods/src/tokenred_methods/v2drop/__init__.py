"""V2Drop, arXiv 2509.01552: visual tokens that a layer hardly changed leave."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the ranking by what a layer changed."""
    register("variation", ".ranker:VariationRanker", "token ranker")
