"""LLaVA-Scissor: connected components of similar tokens."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Register the components."""
    register("components", ".components:ComponentsGrouper", "token grouper")
