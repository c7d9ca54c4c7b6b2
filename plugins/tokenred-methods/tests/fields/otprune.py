"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHOICE = "stages.frame.selector"

CHANGES = {
    "selector channel-volume.of": Change("otprune", f"{CHOICE}.of", "features", "keys@-1"),
    "selector channel-volume.weight": Change(
        "otprune", f"{CHOICE}.weight", 1e-4, 1e4, {"budget.retention_ratio": 0.3}
    ),
    "selector channel-volume.released": Change(
        "otprune",
        f"{CHOICE}.released",
        False,
        True,
        {"stages.frame.order": "selection", "budget.retention_ratio": 0.3},
    ),
}

VARIANTS = {("selector", "channel-volume"): [{"of": "keys@-1", "weight": 1.0}]}
