"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

ALLOCATOR = "stages.frame.allocator"
LOOSE = {"budget.mode": "as-released", "budget.retention_ratio": 0.3}
TURNING = {"grid": (12, 12), "similar": 0.0}


def _change(field, first, second):
    return Change("vcast", f"{ALLOCATOR}.{field}", first, second, LOOSE, TURNING)


CHANGES = {
    "budget allocator curvature.temperature": _change("temperature", 0.7, 0.05),
    "budget allocator curvature.at_least": _change("at_least", 1, 9),
    "budget allocator curvature.released": _change("released", False, True),
}
VARIANTS = {
    ("budget allocator", "curvature"): [
        {"at_least": 0, "temperature": 0.1},
        {"released": True},
    ]
}
