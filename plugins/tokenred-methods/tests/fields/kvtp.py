"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

ALLOCATOR = "stages.frame.allocator"
LOOSE = {"budget.mode": "as-released", "budget.retention_ratio": 0.3}


def _change(field, first, second):
    return Change("kvtp", f"{ALLOCATOR}.{field}", first, second, LOOSE, {"grid": (12, 12)})


CHANGES = {
    "budget allocator relevance-rates.temperature": _change("temperature", 2.0, 0.05),
    "budget allocator relevance-rates.refuse_short": _change("refuse_short", False, True),
}
VARIANTS = {("budget allocator", "relevance-rates"): [{"temperature": 0.1}]}
