"""FitPrune, arXiv 2409.10197."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the table of drops, and the attention that ranks."""
    register("drop-table", ".reducer:DropTableReducer", "layer reducer")
    register("self-cross", ".ranker:SelfCrossRanker", "token ranker")
