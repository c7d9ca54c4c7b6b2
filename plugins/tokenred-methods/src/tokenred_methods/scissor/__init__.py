"""LLaVA-Scissor: connected components of similar tokens."""

from tokenred import hookimpl


@hookimpl
def register_token_groupers(register):
    """Register the components."""
    register("components", ".components:ComponentsGrouper", "ComponentsConfig")
