"""LLaVA-PruMerge and PruMerge+, arXiv 2403.15388, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Bring the adaptive choice of PruMerge and the added samples of PruMerge+."""
    register("outliers", ".outliers:OutliersSelector", "OutliersConfig")
    register("with-samples", ".with_samples:WithSamplesSelector", "WithSamplesConfig")


@hookimpl
def register_couplers(register):
    """Bring the coupling from the anchor's side."""
    register("neighbours", ".neighbours:NeighboursCoupler", "NeighboursConfig")
