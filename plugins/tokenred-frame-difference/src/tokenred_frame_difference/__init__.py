"""DTD of TimeChat-Online and EVS of vLLM, as a strategy and presets of tokenred."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_cost_terms(register):
    """Bring the comparison of pixels."""
    register("pixel-difference", ".pixel_difference:PixelDifferenceCost", "PixelDifferenceConfig")


@hookimpl
def register_presets(register):
    """Bring the pipelines."""
    folder = Path(str(files("tokenred_frame_difference"))).joinpath("presets")
    for path in sorted(folder.glob("*.yaml")):
        register(path.stem, path)
