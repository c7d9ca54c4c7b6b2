"""VidCom2: frames that are unique get more tokens, and keep those that are rare."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector and the budget allocator."""
    register("rarity", ".rarity:RaritySelector", "selector")
    register("uniqueness", ".uniqueness:UniquenessAllocator", "budget allocator")
