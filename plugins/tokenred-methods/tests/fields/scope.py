"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHOICE = "stages.frame.selector"
QUARTER = {"budget.retention_ratio": 0.25}
WHOLE = {"native_pool": "none"}
ADDED = {**QUARTER, f"{CHOICE}.combine": "add"}

CHANGES = {
    "selector coverage.saliency": Change(
        "scope", f"{CHOICE}.saliency", "salience@-2", None, QUARTER, WHOLE
    ),
    "selector coverage.of": Change("scope", f"{CHOICE}.of", "tower", "features", QUARTER, WHOLE),
    "selector coverage.alpha": Change("scope", f"{CHOICE}.alpha", 1.0, 4.0, QUARTER, WHOLE),
    "selector coverage.combine": Change(
        "scope", f"{CHOICE}.combine", "multiply", "add", QUARTER, WHOLE
    ),
    "selector coverage.scale": Change("scope", f"{CHOICE}.scale", 1.0, 1000.0, ADDED, WHOLE),
}

VARIANTS = {
    ("selector", "coverage"): [
        {"saliency": "salience@-2", "of": "tower"},
        {"saliency": "salience@-2", "combine": "add", "alpha": 2.0, "scale": 16.0},
    ]
}
