"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

GROUPER, RANKER = "merge.grouper", "prune.reducer.ranker"
WIDE = {"grid": (8, 8), "native_pool": "none", "similar": 0.7}
LOOSE = {f"{GROUPER}.threshold": 0.2}
SOME = {"prune.reducer.schedule": {1: "adaptive"}}


def _windows(field, first, second):
    return Change("mustdrop", f"{GROUPER}.{field}", first, second, LOOSE, WIDE)


CHANGES = {
    "token grouper alike-windows.window": _windows("window", [2, 2], [3, 3]),
    "token grouper alike-windows.threshold": Change(
        "mustdrop", f"{GROUPER}.threshold", -1.0, 2.0, {}, WIDE
    ),
    "token grouper alike-windows.same_number": _windows("same_number", False, True),
    "token grouper alike-windows.border": _windows("border", "keep", "refuse"),
    "token ranker two-thresholds.total": Change(
        "mustdrop", f"{RANKER}.total", 0.0, 1.0, {**SOME, f"{RANKER}.single": 2.0}
    ),
    "token ranker two-thresholds.single": Change(
        "mustdrop", f"{RANKER}.single", 0.0, 2.0, {**SOME, f"{RANKER}.total": 1.0}
    ),
}
VARIANTS = {
    ("token grouper", "alike-windows"): [
        {"window": [1, 2], "threshold": 0.2},
        {"window": [2, 1], "threshold": -1.0, "same_number": True},
    ],
    ("token ranker", "two-thresholds"): [{"total": 0.05, "single": 0.2}],
}
