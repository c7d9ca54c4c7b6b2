"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHOICE = "stages.frame.selector"
QUARTER = {"budget.retention_ratio": 0.25}
WHOLE = {"native_pool": "none"}
BEHIND = {
    "budget": {"retention_ratio": 0.4},
    "stages": {
        "first": {"kind": "frame", "selector": "uniform-grid", "n_anchors": 3, "rest": "leave"},
        "frame": {"kind": "frame", "selector": "text-coverage"},
    },
}

CHANGES = {
    "selector text-coverage.text": Change(
        "mmtok", f"{CHOICE}.text", "text-similarity", "attention@-2", QUARTER, WHOLE
    ),
    "selector text-coverage.text_of": Change(
        "mmtok", f"{CHOICE}.text_of", "features", "keys@-2", QUARTER, WHOLE
    ),
    "selector text-coverage.of": Change(
        "mmtok", f"{CHOICE}.of", "tower", "features", QUARTER, WHOLE
    ),
    "selector text-coverage.alpha": Change("mmtok", f"{CHOICE}.alpha", 0.5, 50.0, QUARTER, WHOLE),
    "selector text-coverage.text_temperature": Change(
        "mmtok", f"{CHOICE}.text_temperature", 0.02, 5.0, QUARTER, WHOLE
    ),
    "selector text-coverage.temperature": Change(
        "mmtok", f"{CHOICE}.temperature", 0.2, 0.01, QUARTER, WHOLE
    ),
    "selector text-coverage.dropped": Change(BEHIND, f"{CHOICE}.dropped", "ignore", "cover"),
}

VARIANTS = {
    ("selector", "text-coverage"): [
        {"of": "features", "alpha": 3.0},
        {"text": "attention@-2", "text_temperature": 1.0},
    ]
}
