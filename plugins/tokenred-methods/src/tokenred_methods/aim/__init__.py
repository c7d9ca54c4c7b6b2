"""AIM, arXiv 2412.03248."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring merging in steps before the LLM, and page rank inside it."""
    register("bipartite-steps", ".steps:BipartiteStepsGrouper", "token grouper")
    register("page-rank", ".ranker:PageRankRanker", "token ranker")
