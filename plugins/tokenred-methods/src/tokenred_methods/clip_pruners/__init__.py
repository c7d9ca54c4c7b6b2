"""Pruners that grew up on CLIP towers: FasterVLM, VisPruner, HiRED, CDPruner, VScan's first stage.

FasterVLM needs no strategy of its own, it is a preset; the others bring what is missing in
tokenred: a selector each, or a budget allocator.
"""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selectors of VisPruner, CDPruner and VScan, and HiRED's division of a budget."""
    register("duplicate-removal", ".duplicate_removal:DuplicateRemovalSelector", "selector")
    register("dpp", ".dpp:DppSelector", "selector")
    register("window-cap", ".window_cap:WindowCapSelector", "selector")
    register("tile-attention", ".tile_attention:TileAttentionAllocator", "budget allocator")
