"""VidCom2: frames that are unique get more tokens, and keep those that are rare."""

from importlib.resources import files
from pathlib import Path

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Register the selector."""
    register("rarity", ".rarity:RaritySelector", "RarityConfig")


@hookimpl
def register_budget_allocators(register):
    """Register the budget allocator."""
    register("uniqueness", ".uniqueness:UniquenessAllocator", "UniquenessConfig")


@hookimpl
def register_presets(register):
    """Register the pipeline files of this distribution."""
    for path in sorted(Path(str(files("tokenred_vidcom2"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)
