"""PruneVid: frames clustered into segments, what stands still in them split from what moves."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the clustering of frames, and the rule that splits the tokens of a segment."""
    register("frame-clusters", ".frame_clusters:FrameClustersSegmenter", "segmenter")
    register("pairwise", ".pairwise:PairwiseRule", "static rule")
    register("prunevid-released-frame", ".stages:PruneVidReleasedFrameStage", "stage")
