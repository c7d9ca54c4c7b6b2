"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

REDUCER = "stages.llm.reducer"
FUSION = {"stages": {"llm": {"kind": "llm", "reducer": "framefusion"}}}
CHANGES = {
    "layer reducer framefusion.cost": Change(FUSION, f"{REDUCER}.cost", 0.4, 0.9),
    "layer reducer framefusion.similarity": Change(
        FUSION, f"{REDUCER}.similarity", 0.3, 0.95, {f"{REDUCER}.cost": 0.9}
    ),
    "layer reducer framefusion.merge_at_least": Change(
        FUSION,
        f"{REDUCER}.merge_at_least",
        0.0,
        1.0,
        {f"{REDUCER}.cost": 0.5, f"{REDUCER}.similarity": 0.9},
    ),
    "layer reducer framefusion.newlines": Change(
        FUSION, f"{REDUCER}.newlines", "keep", "merge", prompt={"newlines": "row"}
    ),
    "layer reducer framefusion.assumed_layers": Change(FUSION, f"{REDUCER}.assumed_layers", 4, 28),
}
VARIANTS = {
    ("layer reducer", "framefusion"): [
        {"cost": 0.9, "similarity": 0.2, "newlines": "merge"},
        {"cost": 0.1, "assumed_layers": 28},
        {"merge_at_least": 0.0, "similarity": -1.0},
    ],
}
