"""FastVID: what stands out in every frame, and density peaks in a few frames of every segment."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Register the two halves of FastVID's budget, and the release's frame stage."""
    register("fastvid-salient", ".salient:FastvidSalientAllocator", "budget allocator")
    register("fastvid-context", ".context:FastvidContextAllocator", "budget allocator")
    register("fastvid-released-frame", ".stages:FastVidReleasedFrameStage", "stage")
