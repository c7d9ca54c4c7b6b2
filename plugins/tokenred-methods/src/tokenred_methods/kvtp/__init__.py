"""KVTP, arXiv 2503.10742, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring rates by the relevance of frames."""
    register("relevance-rates", ".rates:RelevanceRatesAllocator", "budget allocator")
