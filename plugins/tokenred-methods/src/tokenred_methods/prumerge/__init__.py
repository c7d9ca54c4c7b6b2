"""LLaVA-PruMerge and PruMerge+, arXiv 2403.15388, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring PruMerge's adaptive choice and coupling, and the added samples of PruMerge+."""
    register("outliers", ".outliers:OutliersSelector", "selector")
    register("with-samples", ".with_samples:WithSamplesSelector", "selector")
    register("prumerge-released-frame", ".stages:PrumergeReleasedFrameStage", "stage")
    register("neighbours", ".neighbours:NeighboursCoupler", "coupler")
