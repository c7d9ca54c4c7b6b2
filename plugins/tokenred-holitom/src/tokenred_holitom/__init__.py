"""HoliTom: windows of frames in which as many tokens as possible repeat, merged over time."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl
from tokenred_holitom.consecutive import ConsecutiveConfig, ConsecutiveRule
from tokenred_holitom.static_windows import StaticWindowsConfig, StaticWindowsSegmenter


@hookimpl
def register_temporal_segmenters(register):
    """Register the dynamic programme over windows."""
    register("static-windows", StaticWindowsSegmenter, StaticWindowsConfig)


@hookimpl
def register_static_rules(register):
    """Register the rule that goes with it."""
    register("consecutive", ConsecutiveRule, ConsecutiveConfig)


@hookimpl
def register_presets(register):
    """Register the pipeline files that ship with the plugin."""
    for path in sorted(Path(str(files("tokenred_holitom"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
