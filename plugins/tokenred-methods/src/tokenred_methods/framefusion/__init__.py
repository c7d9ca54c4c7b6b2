"""FrameFusion, arXiv 2501.01986."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the merge of what is alike in consecutive frames."""
    register("framefusion", ".reducer:FrameFusionReducer", "layer reducer")
