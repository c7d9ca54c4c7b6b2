"""LLaVA-Scissor: connected components of similar tokens."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_token_groupers(register):
    """Register the components."""
    register("components", ".components:ComponentsGrouper", "ComponentsConfig")


@hookimpl
def register_presets(register):
    """Register the pipeline files that ship with the plugin."""
    for path in sorted(Path(str(files("tokenred_scissor"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
