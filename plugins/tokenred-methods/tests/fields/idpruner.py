"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHOICE = "stages.frame.selector"
QUARTER = {"budget.retention_ratio": 0.25}

CHANGES = {
    "selector mmr.importance": Change(
        "mmr", f"{CHOICE}.importance", "salience@-2", "attention@-1", QUARTER
    ),
    "selector mmr.of": Change("mmr", f"{CHOICE}.of", "features", "keys@-1", QUARTER),
    "selector mmr.balance": Change("mmr", f"{CHOICE}.balance", 0.5, 0.0, QUARTER),
    "selector mmr.per_step": Change("mmr", f"{CHOICE}.per_step", 1, 8, QUARTER),
}

VARIANTS = {
    ("selector", "mmr"): [
        {"importance": "importance", "balance": 0.0},
        {"of": "keys@-1", "balance": 1.0, "per_step": 4},
    ]
}
CUES = {"importance": 0}
