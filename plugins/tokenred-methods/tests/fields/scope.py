"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

SELECTOR = "stages.frame.selector"


def _change(field, first, second):
    base = {"budget.retention_ratio": 0.3}
    return Change("scope", f"{SELECTOR}.{field}", first, second, base, {"grid": (12, 12)})


CHANGES = {
    "selector coverage.of": _change("of", "tower", "features"),
    "selector coverage.layer": _change("layer", "features", None),
    "selector coverage.query": _change("query", "any", "class"),
    "selector coverage.alpha": _change("alpha", 1.0, 0.2),
    "selector coverage.combine": _change("combine", "product", "sum"),
}
VARIANTS = {
    ("selector", "coverage"): [
        {"of": "features", "layer": None},
        {"of": "keys@-1", "combine": "sum", "alpha": 2.0},
    ]
}
