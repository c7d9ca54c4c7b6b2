"""DyCoke, arXiv 2411.15024, as a strategy and presets of tokenred."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_frame_references(register):
    """Bring the order in which frames are compared."""
    register("dyadic", ".dyadic:DyadicReference", "DyadicConfig")


@hookimpl
def register_presets(register):
    """Bring the pipelines."""
    for path in sorted(Path(str(files("tokenred_dycoke"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
