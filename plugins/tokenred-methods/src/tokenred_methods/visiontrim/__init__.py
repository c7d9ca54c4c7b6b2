"""VisionTrim: tokens of much attention, and others by the question that take in the rest."""

from tokenred import hookimpl


@hookimpl
def register_strategies(register):
    """Bring two selectors and a cost term."""
    register("two-attentions", ".two_attentions:TwoAttentionsSelector", "selector")
    register("like-the-text", ".like_the_text:LikeTheTextSelector", "selector")
    register("through-text", ".through_text:ThroughTextCost", "cost term")
