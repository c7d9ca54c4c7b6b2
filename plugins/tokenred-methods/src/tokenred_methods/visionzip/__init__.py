"""VisionZip, arXiv 2412.04467, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the choice of contextual targets, the merge of the release."""
    register("evenly-spaced", ".evenly_spaced:EvenlySpacedSelector", "selector")
    register("add-mean", ".add_mean:AddMeanAggregator", "aggregator")
    register("visionzip-released-frame", ".stages:VisionZipReleasedFrameStage", "stage")
