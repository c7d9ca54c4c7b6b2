"""Pruners that grew up on CLIP towers: FasterVLM, VisPruner, HiRED, CDPruner, VScan's first stage.

FasterVLM needs no strategy of its own, it is a preset; the others bring what is missing in
tokenred: a selector each, or a budget allocator.
"""

from tokenred import hookimpl


@hookimpl
def register_selectors(register):
    """Bring the selectors of VisPruner, CDPruner and VScan for Qwen2.5-VL."""
    register(
        "duplicate-removal", ".duplicate_removal:DuplicateRemovalSelector", "DuplicateRemovalConfig"
    )
    register("dpp", ".dpp:DppSelector", "DppConfig")
    register("window-cap", ".window_cap:WindowCapSelector", "WindowCapConfig")


@hookimpl
def register_budget_allocators(register):
    """Bring HiRED's division of the budget."""
    register("tile-attention", ".tile_attention:TileAttentionAllocator", "TileAttentionConfig")
