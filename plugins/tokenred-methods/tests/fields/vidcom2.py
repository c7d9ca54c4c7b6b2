"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

QUARTER = {"budget.retention_ratio": 0.25}
NARROW, WIDE = [0.125], [100.0]
CHANGES = {
    "selector rarity.channels": Change(
        "vidcom2", "stages.frame.selector.channels", 0.5, 1.0, QUARTER
    ),
    "selector rarity.widths": Change(
        "vidcom2", "stages.frame.selector.widths", NARROW, WIDE, QUARTER
    ),
    "budget allocator uniqueness.channels": Change(
        "vidcom2", "stages.frame.allocator.channels", 0.5, 1.0, QUARTER
    ),
    "budget allocator uniqueness.widths": Change(
        "vidcom2",
        "stages.frame.allocator.widths",
        [2.0],
        WIDE,
        {**QUARTER, "stages.frame.allocator.temperature": 0.002},
        {"native_pool": "none", "grid": (12, 12), "seed": 3},
    ),
    "budget allocator uniqueness.temperature": Change(
        "vidcom2", "stages.frame.allocator.temperature", 0.01, 10.0, QUARTER
    ),
    "budget allocator uniqueness.released": Change(
        "vidcom2-released",
        "stages.frame.allocator.released",
        False,
        True,
        {"budget.retention_ratio": 0.01},
    ),
}
VARIANTS = {
    ("selector", "rarity"): [{"channels": 1.0}, {"widths": [0.5]}],
    ("budget allocator", "uniqueness"): [{"temperature": 1.0}, {"channels": 0.2}],
}
