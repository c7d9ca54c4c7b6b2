"""G-Prune, arXiv 2501.02268, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring G-Prune's flow in a graph of similar tokens."""
    register("graph-flow", ".graph_flow:GraphFlowSelector", "selector")
