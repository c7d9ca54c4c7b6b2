"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

LARGE = {"grid": (12, 12)}
SELECTOR = "stages.frame.selector"
RELEASED = {"budget.mode": "as-released", "budget.retention_ratio": 0.7}


def _change(field, first, second, others, base="holov"):
    return Change(base, f"{SELECTOR}.{field}", first, second, others, LARGE)


QUARTER = {"budget.retention_ratio": 0.25}
CHANGES = {
    "selector runs.layer": _change("layer", "features", -2, QUARTER),
    "selector runs.query": _change("query", "any", "class", QUARTER),
    "selector runs.n_runs": _change("n_runs", 16, 3, QUARTER),
    "selector runs.variance": _change(
        "variance", "frame", "run", {**QUARTER, f"{SELECTOR}.variance_weight": 3.0}
    ),
    "selector runs.variance_weight": _change("variance_weight", 0.0, 5.0, QUARTER),
    "selector runs.surplus": _change("surplus", "share", "lose", RELEASED),
}
VARIANTS = {
    ("selector", "runs"): [
        {"n_runs": "by-number"},
        {"n_runs": 3, "variance": "run", "surplus": "lose"},
    ],
    ("stage", "holov-released-frame"): [
        {"selector": {"name": "runs", "n_runs": 3, "surplus": "lose"}, "n_anchors": 3}
    ],
}
REQUIRED = {("stage", "holov-released-frame"): {"selector": "runs"}}
