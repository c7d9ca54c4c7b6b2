"""Published methods, a package each with its strategies and presets; comparisons of all."""

from pathlib import Path

from tokenred import hookimpl

tokenred_plugins = (
    ".aim",
    ".clip_pruners",
    ".dart",
    ".divprune",
    ".dycoke",
    ".fastvid",
    ".fitprune",
    ".framefusion",
    ".frame_difference",
    ".gprune",
    ".hiprune",
    ".holitom",
    ".holov",
    ".idpruner",
    ".kvtp",
    ".mmtok",
    ".mustdrop",
    ".otprune",
    ".pact",
    ".prumerge",
    ".prunevid",
    ".pyramiddrop",
    ".scissor",
    ".scope",
    ".sparsevlm",
    ".sttm",
    ".tome",
    ".v2drop",
    ".vcast",
    ".vidcom2",
    ".visiontrim",
    ".visionzip",
    ".vtw",
)
"""The packages whose hooks tokenred calls, too."""


@hookimpl
def register_presets(register):
    """Register the pipeline files of all methods."""
    for path in sorted(Path(__file__).parent.glob("*/presets/*.yaml")):
        register(path.stem, path)


@hookimpl
def register_ablations(register):
    """Register the comparisons of all methods."""
    for path in sorted(Path(__file__).parent.glob("ablations/*.yaml")):
        register(path.stem, path)
