"""ToMe: bipartite soft matching."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Register the choice of what merges."""
    register("bipartite", ".selector:BipartiteSelector", "BipartiteConfig")


@hookimpl
def register_cost_terms(register):
    """Register the two kinds of tokens."""
    register("bipartite", ".cost:BipartiteCost", "BipartiteCostConfig")


@hookimpl
def register_presets(register):
    """Register the pipeline files that ship with the plugin."""
    for path in sorted(Path(str(files("tokenred_tome"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
