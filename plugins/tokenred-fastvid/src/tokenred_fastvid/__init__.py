"""FastVID: what stands out in every frame, and density peaks in a few frames of every segment."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_budget_allocators(register):
    """Register the two halves of FastVID's budget."""
    register("fastvid-salient", ".salient:FastvidSalientAllocator", "FastvidSalientConfig")
    register("fastvid-context", ".context:FastvidContextAllocator", "FastvidContextConfig")


@hookimpl
def register_presets(register):
    """Register the pipeline files of this distribution."""
    for path in sorted(Path(str(files("tokenred_fastvid"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
