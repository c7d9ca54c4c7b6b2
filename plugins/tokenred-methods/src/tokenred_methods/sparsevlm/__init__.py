"""SparseVLM, arXiv 2410.04417."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the text raters, and the recycling of what they drop."""
    register("text-raters", ".raters:TextRatersRanker", "token ranker")
    register("recycle", ".recycle:RecycleMerger", "layer merger")
