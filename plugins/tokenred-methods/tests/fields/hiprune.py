"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

LARGE = {"grid": (12, 12)}
SELECTOR = "stages.frame.selector"
HALF = {"budget.retention_ratio": 0.5, f"{SELECTOR}.alpha": 1.0}


def _change(field, first, second, others=HALF, base="hiprune"):
    return Change(base, f"{SELECTOR}.{field}", first, second, others, LARGE)


CHANGES = {
    "selector with-neighbours.middle_layer": _change("middle_layer", 0.334, 0.5),
    "selector with-neighbours.deep_layer": _change("deep_layer", "features", -2, {}),
    "selector with-neighbours.query": _change("query", "tokens", "any", {}),
    "selector with-neighbours.alpha": _change("alpha", 0.1, 1.0, {"budget.retention_ratio": 0.5}),
    "selector with-neighbours.edges": _change("edges", "clip", "wrap"),
    "selector with-neighbours.exclude": _change(
        "exclude",
        "mask",
        "subtract",
        {**HALF, f"{SELECTOR}.alpha": 0.6, "budget.mode": "as-released"},
    ),
    "selector with-neighbours.too_many": _change(
        "too_many", "trim", "error", {"budget.retention_ratio": 0.1, f"{SELECTOR}.alpha": 1.0}
    ),
}
VARIANTS = {
    ("selector", "with-neighbours"): [
        {"alpha": 1.0},
        {"alpha": 1.0, "edges": "wrap", "query": "any"},
        {"alpha": 0.6, "exclude": "subtract"},
    ]
}
