"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

SELECTOR = "stages.frame.selector"


def _change(field, first, second):
    base = {"budget.retention_ratio": 0.3}
    return Change("idpruner", f"{SELECTOR}.{field}", first, second, base, {"grid": (12, 12)})


CUES = {"importance": 0}
CHANGES = {
    "selector marginal-relevance.importance": _change(
        "importance", "salience@features", "attention@0"
    ),
    "selector marginal-relevance.of": _change("of", "features", "keys@-1"),
    "selector marginal-relevance.balance": _change("balance", 0.5, 0.1),
    "selector marginal-relevance.per_step": _change("per_step", 1, 8),
}
VARIANTS = {
    ("selector", "marginal-relevance"): [
        {"balance": 0.0, "per_step": 3},
        {"balance": 1.0, "of": "keys@-1", "importance": "attention@-1"},
    ]
}
