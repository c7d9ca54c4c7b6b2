"""DivPrune: the tokens of all frames that are farthest from each other."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector."""
    register("max-min", ".max_min:MaxMinSelector", "selector")
