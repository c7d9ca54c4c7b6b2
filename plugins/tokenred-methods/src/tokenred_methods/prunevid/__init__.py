"""PruneVid: frames clustered into segments, what stands still in them split from what moves."""

from tokenred import hookimpl


@hookimpl
def register_segmenters(register):
    """Register the clustering of frames."""
    register("frame-clusters", ".frame_clusters:FrameClustersSegmenter", "FrameClustersConfig")


@hookimpl
def register_static_rules(register):
    """Register the rule that splits the tokens of a segment."""
    register("pairwise", ".pairwise:PairwiseRule", "PairwiseConfig")
