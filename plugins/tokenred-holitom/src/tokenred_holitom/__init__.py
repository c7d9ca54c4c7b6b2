"""HoliTom: windows of frames in which as many tokens as possible repeat, merged over time."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_segmenters(register):
    """Register the dynamic programme over windows."""
    register("static-windows", ".static_windows:StaticWindowsSegmenter", "StaticWindowsConfig")


@hookimpl
def register_static_rules(register):
    """Register the rule that goes with it."""
    register("consecutive", ".consecutive:ConsecutiveRule", "ConsecutiveConfig")


@hookimpl
def register_presets(register):
    """Register the pipeline files that ship with the plugin."""
    for path in sorted(Path(str(files("tokenred_holitom"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
