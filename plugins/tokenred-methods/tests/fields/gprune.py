"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHOICE = "stages.frame.selector"
QUARTER = {"budget.retention_ratio": 0.25}
# So many edges that a walk leaves its token.
DENSE = {**QUARTER, f"{CHOICE}.threshold": 0.0, f"{CHOICE}.temperature": 0.3}

CHANGES = {
    "selector graph-flow.of": Change("gprune", f"{CHOICE}.of", "features", "keys@-1", QUARTER),
    "selector graph-flow.threshold": Change("gprune", f"{CHOICE}.threshold", 0.5, -1.0, QUARTER),
    "selector graph-flow.temperature": Change(
        "gprune", f"{CHOICE}.temperature", 0.03, 1.0, QUARTER
    ),
    "selector graph-flow.steps": Change("gprune", f"{CHOICE}.steps", 5, 0, DENSE),
}

VARIANTS = {("selector", "graph-flow"): [{"of": "keys@-1", "threshold": 0.9, "steps": 1}]}
