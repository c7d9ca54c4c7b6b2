"""VisionZip, arXiv 2412.04467, as strategies and presets of tokenred."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Bring the choice of contextual targets."""
    register("evenly-spaced", ".evenly_spaced:EvenlySpacedSelector", "EvenlySpacedConfig")


@hookimpl
def register_aggregators(register):
    """Bring the merge of the release."""
    register("add-mean", ".add_mean:AddMeanAggregator", "AddMeanConfig")


@hookimpl
def register_presets(register):
    """Bring the pipelines."""
    for path in sorted(Path(str(files("tokenred_visionzip"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
