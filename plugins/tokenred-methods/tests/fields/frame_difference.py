"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CUES = {"pixels": 12}
BY_PIXELS = {
    "drop.cost": [{"name": "pixel-difference"}, "aligned"],
    "drop.keep.decide.tau": 0.5,
}
VIDEO = {"cues": CUES}


def _change(field, first, second):
    return Change("dtd-released", f"stages.drop.cost.0.{field}", first, second, BY_PIXELS, VIDEO)


CHANGES = {
    "cost term pixel-difference.weight": _change("weight", 1.0, 3.0),
    "cost term pixel-difference.frame": _change("frame", 0, -1),
    "cost term pixel-difference.reference_frame": _change("reference_frame", -1, 0),
}
VARIANTS = {("cost term", "pixel-difference"): [{"frame": -1, "reference_frame": 0}]}
