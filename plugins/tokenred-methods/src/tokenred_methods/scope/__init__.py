"""SCOPE: salient tokens that cover the others."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector."""
    register("coverage", ".coverage:CoverageSelector", "selector")
