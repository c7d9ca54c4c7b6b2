"""HoloV, arXiv 2510.02912, as strategies, a stage and presets of tokenred."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring HoloV's budgets for runs of tokens, and the zero vectors of its release."""
    register("runs", ".runs:RunsSelector", "selector")
    register("holov-released-frame", ".stages:HolovReleasedFrameStage", "stage")
