"""PruneVid: frames clustered into segments, what stands still in them split from what moves."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the clustering of frames, the rule that splits a segment, and the ranking inside."""
    register("frame-clusters", ".frame_clusters:FrameClustersSegmenter", "segmenter")
    register("pairwise", ".pairwise:PairwiseRule", "static rule")
    register("prunevid-released-frame", ".stages:PruneVidReleasedFrameStage", "stage")
    register("position-free", ".ranker:PositionFreeRanker", "token ranker")
