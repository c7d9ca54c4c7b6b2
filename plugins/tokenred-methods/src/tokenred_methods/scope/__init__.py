"""SCOPE, arXiv 2510.24214, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring coverage weighted with saliency."""
    register("coverage", ".coverage:CoverageSelector", "selector")
