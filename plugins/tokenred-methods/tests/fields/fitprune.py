"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

REDUCER = "stages.llm.reducer"
TABLE = {"stages": {"llm": {"kind": "llm", "reducer": {"name": "drop-table", "drops": [4, 6]}}}}


def _change(field, first, second, others=None):
    return Change(TABLE, f"{REDUCER}.{field}", first, second, others or {})


CHANGES = {
    "layer reducer drop-table.drops": _change("drops", [4, 6], [40, 200]),
    "layer reducer drop-table.fitted_for": _change("fitted_for", 20, 100),
    "layer reducer drop-table.same_depth": _change("same_depth", False, True),
    "layer reducer drop-table.ranker": _change(
        "ranker", "self-cross", "random", {f"{REDUCER}.fitted_for": 20}
    ),
}
VARIANTS = {
    ("layer reducer", "drop-table"): [
        {"drops": 90},
        {"drops": [3] * 32, "fitted_for": None},
        {"drops": [5, 3], "fitted_for": 8, "ranker": "random"},
    ],
}
