"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

FIXED = {"budget": {"mode": "as-released", "retention_ratio": 0.1}}
GROUPER = "stages.group.grouper"
LOOSE = {**FIXED, f"{GROUPER}.tau": 0.8, f"{GROUPER}.epsilon": 0.8}
VIDEO = {"grid": (8, 8), "native_pool": "none", "similar": 0.6}
CHANGES = {
    "token grouper components.tau": Change("scissor", f"{GROUPER}.tau", 0.6, 0.95, FIXED, VIDEO),
    "token grouper components.epsilon": Change(
        "scissor", f"{GROUPER}.epsilon", 0.05, 1.5, LOOSE, VIDEO
    ),
    "token grouper components.released": Change(
        "scissor", f"{GROUPER}.released", False, True, LOOSE, VIDEO
    ),
}
VARIANTS = {
    ("token grouper", "components"): [
        {"tau": 0.5, "epsilon": 1.0},
        {"tau": 0.5, "epsilon": 1.0, "released": True},
        {"tau": 0.5},
    ]
}
