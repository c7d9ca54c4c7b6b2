"""DTD of TimeChat-Online and EVS of vLLM, as a strategy and presets of tokenred."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl
from tokenred_frame_difference.pixel_difference import PixelDifferenceConfig, PixelDifferenceCost

__all__ = ["PixelDifferenceConfig", "PixelDifferenceCost"]


@hookimpl
def register_cost_terms(register):
    """Bring the comparison of pixels."""
    register("pixel-difference", PixelDifferenceCost, PixelDifferenceConfig)


@hookimpl
def register_presets(register):
    """Bring the pipelines."""
    folder = Path(str(files("tokenred_frame_difference"))).joinpath("presets")
    for path in sorted(folder.glob("*.yaml")):
        register(path.stem, path)
