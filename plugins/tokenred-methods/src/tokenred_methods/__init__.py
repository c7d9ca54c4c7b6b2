"""Published methods, a package each: strategies where its idea is new, and its presets."""

from pathlib import Path

from tokenred import hookimpl

tokenred_plugins = (
    ".clip_pruners",
    ".dycoke",
    ".fastvid",
    ".frame_difference",
    ".holitom",
    ".prumerge",
    ".prunevid",
    ".scissor",
    ".sttm",
    ".tome",
    ".vidcom2",
    ".visionzip",
)
"""The packages whose hooks tokenred calls, too."""


@hookimpl
def register_presets(register):
    """Register the pipeline files of all methods."""
    for path in sorted(Path(__file__).parent.glob("*/presets/*.yaml")):
        register(path.stem, path)
