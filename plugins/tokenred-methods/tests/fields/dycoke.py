"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

PRUNER = "stages.cache.pruner"
CACHE = {"stages": {"cache": {"kind": "cache", "pruner": "dycoke"}}}
STILL = {"change": 0.001}
CHANGES = {
    "cache pruner dycoke.layer": Change(CACHE, f"{PRUNER}.layer", 1, 0.5),
    "cache pruner dycoke.drop_ratio": Change(CACHE, f"{PRUNER}.drop_ratio", 0.2, 0.7),
    "cache pruner dycoke.similarity": Change(CACHE, f"{PRUNER}.similarity", -1.0, 1.0),
    "cache pruner dycoke.unchanged": Change(
        CACHE, f"{PRUNER}.unchanged", "reuse", "all", prompt=STILL
    ),
    "cache pruner dycoke.spare_last": Change(
        CACHE, f"{PRUNER}.spare_last", False, True, {f"{PRUNER}.drop_ratio": 1.0}
    ),
    "frame reference dyadic.released": Change(
        "dycoke-released", "stages.drop.reference.released", True, False
    ),
}
VARIANTS = {
    ("frame reference", "dyadic"): [{"released": True}],
    ("cache pruner", "dycoke"): [
        {"layer": 1, "drop_ratio": 1.0, "unchanged": "all"},
        {"similarity": -1.0, "spare_last": True},
    ],
}
