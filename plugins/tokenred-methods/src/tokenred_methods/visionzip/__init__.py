"""VisionZip, arXiv 2412.04467, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Bring the choice of contextual targets."""
    register("evenly-spaced", ".evenly_spaced:EvenlySpacedSelector", "EvenlySpacedConfig")


@hookimpl
def register_aggregators(register):
    """Bring the merge of the release."""
    register("add-mean", ".add_mean:AddMeanAggregator", "AddMeanConfig")
