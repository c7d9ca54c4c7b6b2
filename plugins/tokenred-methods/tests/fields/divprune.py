"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHOICE = "stages.frame.selector"

CHANGES = {
    "selector max-min.of": Change("divprune", f"{CHOICE}.of", "features", "keys@-1"),
    # One token a frame is left to choose from, which the released code cannot.
    "selector max-min.released": Change(
        "divprune",
        f"{CHOICE}.released",
        False,
        True,
        {
            "budget.mode": "as-released",
            "stages.frame.n_anchors": 1,
            "stages.frame.order": "selection",
        },
        {"frames": 1, "grid": (1, 1)},
    ),
}

VARIANTS = {("selector", "max-min"): [{"of": "keys@-1"}, {"released": True}]}
