"""VidCom2: frames that are unique get more tokens, and keep those that are rare."""

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Register the selector."""
    register("rarity", ".rarity:RaritySelector", "RarityConfig")


@hookimpl
def register_budget_allocators(register):
    """Register the budget allocator."""
    register("uniqueness", ".uniqueness:UniquenessAllocator", "UniquenessConfig")
