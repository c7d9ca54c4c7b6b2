"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

QUARTER = {"budget.retention_ratio": 0.25}
WHOLE = {"native_pool": "none"}
FIRST, SECOND = "stages.dominant.selector", "stages.complement.selector"
PRICED = {**QUARTER, "complement.cost": [{"name": "through-text"}, {"name": "cosine"}]}

CHANGES = {
    "selector two-attentions.first": Change(
        "visiontrim", f"{FIRST}.first", "salience@features", "attention@0", QUARTER, WHOLE
    ),
    "selector two-attentions.second": Change(
        "visiontrim", f"{FIRST}.second", "patch-attention@features", "attention@0", QUARTER, WHOLE
    ),
    "selector like-the-text.text": Change(
        "visiontrim", f"{SECOND}.text", "text-similarity", "attention@0", QUARTER, WHOLE
    ),
    "selector like-the-text.text_of": Change(
        "visiontrim", f"{SECOND}.text_of", "features", "keys@-2", QUARTER, WHOLE
    ),
    "cost term through-text.text": Change(
        "visiontrim", "stages.complement.cost.0.text", "text-similarity", "keys@-2", QUARTER, WHOLE
    ),
    "cost term through-text.text_of": Change(
        "visiontrim", "stages.complement.cost.0.text_of", "features", "keys@-2", QUARTER, WHOLE
    ),
    "cost term through-text.weight": Change(
        "visiontrim", "stages.complement.cost.0.weight", 1.0, 50.0, PRICED, WHOLE
    ),
}

VARIANTS = {
    ("selector", "two-attentions"): [{"first": "attention@0", "second": "attention@-1"}],
    ("selector", "like-the-text"): [{"text": "attention@-2"}],
    ("cost term", "through-text"): [{"text": "attention@-2"}],
}
