"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

SELECTOR = "stages.frame.selector"


def _change(field, first, second, others=None):
    base = {"budget.retention_ratio": 0.3, **(others or {})}
    return Change("gprune", f"{SELECTOR}.{field}", first, second, base, {"grid": (12, 12)})


CHANGES = {
    "selector graph-flow.of": _change("of", "features", "keys@-1"),
    "selector graph-flow.similarity": _change("similarity", 0.5, 0.0),
    "selector graph-flow.temperature": _change("temperature", 0.03, 3.0),
    "selector graph-flow.steps": _change("steps", 5, 0),
}
VARIANTS = {
    ("selector", "graph-flow"): [{"steps": 0}, {"of": "keys@-1", "similarity": -1.0, "steps": 2}]
}
