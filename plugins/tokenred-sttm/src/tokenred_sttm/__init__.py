"""STTM: quadtrees inside frames, united over time."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_token_groupers(register):
    """Register the quadtree."""
    register("quadtree", ".quadtree:QuadtreeGrouper", "QuadtreeConfig")


@hookimpl
def register_presets(register):
    """Register the pipeline files that ship with the plugin."""
    for path in sorted(Path(str(files("tokenred_sttm"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
