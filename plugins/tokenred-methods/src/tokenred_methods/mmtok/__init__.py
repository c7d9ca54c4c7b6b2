"""MMTok: tokens that cover the words of the question and the image."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring the selector."""
    register("text-coverage", ".text_coverage:TextCoverageSelector", "selector")
