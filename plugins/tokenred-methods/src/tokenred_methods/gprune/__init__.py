"""G-Prune: tokens that much flows to on the graph of their similarities."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector."""
    register("graph-flow", ".graph_flow:GraphFlowSelector", "selector")
