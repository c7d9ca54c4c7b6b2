"""FastVID: what stands out in every frame, and density peaks in a few frames of every segment."""

from tokenred import hookimpl


@hookimpl
def register_budget_allocators(register):
    """Register the two halves of FastVID's budget."""
    register("fastvid-salient", ".salient:FastvidSalientAllocator", "FastvidSalientConfig")
    register("fastvid-context", ".context:FastvidContextAllocator", "FastvidContextConfig")
