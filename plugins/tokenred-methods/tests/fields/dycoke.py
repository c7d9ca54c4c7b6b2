"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHANGES = {
    "frame reference dyadic.released": Change(
        "dycoke-released", "stages.drop.reference.released", True, False
    ),
}
VARIANTS = {("frame reference", "dyadic"): [{"released": True}]}
