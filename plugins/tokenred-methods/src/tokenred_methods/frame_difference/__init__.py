"""DTD of TimeChat-Online and EVS of vLLM, as a strategy and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the comparison of pixels."""
    register("pixel-difference", ".pixel_difference:PixelDifferenceCost", "cost term")
