"""V-CAST, arXiv 2603.27650, as strategies and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring budgets by curvature, and the choice of what stands out."""
    register("curvature", ".curvature:CurvatureAllocator", "budget allocator")
    register("standing-out", ".standing_out:StandingOutSelector", "selector")
