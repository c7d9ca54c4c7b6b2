"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

FIXED = {"budget": {"mode": "as-released", "retention_ratio": 0.1}}
GROUPER = "stages.group.grouper"
LOOSE = {
    **FIXED,
    f"{GROUPER}.threshold": 0.3,
    f"{GROUPER}.temporal_threshold": 0.5,
    f"{GROUPER}.temporal_relative": False,
}
WIDE = {"grid": (8, 8), "native_pool": "none", "similar": 0.7}
ODD = {"grid": (7, 7), "native_pool": "none", "similar": 0.7}
CHANGES = {
    "token grouper quadtree.threshold": Change(
        "sttm", f"{GROUPER}.threshold", 0.0, 0.8, FIXED, WIDE
    ),
    "token grouper quadtree.temporal_threshold": Change(
        "sttm", f"{GROUPER}.temporal_threshold", 0.5, None, LOOSE, WIDE
    ),
    "token grouper quadtree.temporal_relative": Change(
        "sttm", f"{GROUPER}.temporal_relative", False, True, LOOSE, WIDE
    ),
    "token grouper quadtree.root_level": Change(
        "sttm", f"{GROUPER}.root_level", 0, 2, {**LOOSE, f"{GROUPER}.threshold": -1.0}, WIDE
    ),
    "token grouper quadtree.weighted_avg": Change(
        "sttm", f"{GROUPER}.weighted_avg", False, True, LOOSE, WIDE
    ),
    "token grouper quadtree.head_dim": Change(
        "sttm", f"{GROUPER}.head_dim", None, 2, LOOSE, {**WIDE, "dim": 6}
    ),
    "token grouper quadtree.released": Change(
        "sttm", f"{GROUPER}.released", False, True, LOOSE, ODD
    ),
}
VARIANTS = {
    ("token grouper", "quadtree"): [
        {"threshold": 0.2, "weighted_avg": True, "root_level": 0},
        {"threshold": 0.2, "temporal_threshold": 0.3, "released": True},
        {"threshold": 0.2, "temporal_threshold": None, "head_dim": 3},
        {"threshold": 0.3, "temporal_threshold": -0.1, "temporal_relative": True},
    ]
}
