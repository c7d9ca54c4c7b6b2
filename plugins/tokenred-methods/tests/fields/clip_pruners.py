"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

WHOLE = {"native_pool": "none"}
QUARTER = {"budget.retention_ratio": 0.25}
DIVERSE, CHOICE = "stages.diverse.selector", "stages.frame.selector"
ALLOCATOR = "stages.frame.allocator"

CHANGES = {
    "selector duplicate-removal.layer": Change(
        "vispruner", f"{DIVERSE}.layer", -2, 0.5, QUARTER, WHOLE
    ),
    "selector duplicate-removal.query": Change(
        "vispruner", f"{DIVERSE}.query", "any", "tokens", QUARTER, WHOLE
    ),
    "selector duplicate-removal.of": Change(
        "vispruner", f"{DIVERSE}.of", "tower", "features", QUARTER, WHOLE
    ),
    "selector duplicate-removal.per_round": Change(
        "vispruner", f"{DIVERSE}.per_round", 8, 2, QUARTER, WHOLE
    ),
    # 11 of 36 tokens: 5 important ones leave 31, an odd number.
    "selector duplicate-removal.released": Change(
        "vispruner", f"{DIVERSE}.released", False, True, {"budget.retention_ratio": 0.3}, WHOLE
    ),
    "selector dpp.relevance": Change(
        "dpp", f"{CHOICE}.relevance", "salience@features", None, QUARTER
    ),
    "selector dpp.of": Change("dpp", f"{CHOICE}.of", "features", "tower", QUARTER, WHOLE),
    # 9 picks in 5 dimensions repeat.
    "selector dpp.released": Change("dpp", f"{CHOICE}.released", False, True, QUARTER, WHOLE),
    "selector window-cap.window": Change(
        "vscan-qwen", f"{CHOICE}.window", [4, 4], [2, 2], QUARTER, {"grid": (8, 8), **WHOLE}
    ),
    "selector window-cap.shallow_layer": Change(
        "vscan-qwen", f"{CHOICE}.shallow_layer", 0.22, 0.5, QUARTER, WHOLE
    ),
    "selector window-cap.deep_layer": Change(
        "vscan-qwen", f"{CHOICE}.deep_layer", -1, -2, QUARTER, WHOLE
    ),
    "selector window-cap.query": Change(
        "vscan-qwen", f"{CHOICE}.query", "tokens", "any", QUARTER, WHOLE
    ),
    "selector window-cap.global_ratio": Change(
        "vscan-qwen", f"{CHOICE}.global_ratio", 0.5, 0.0, QUARTER, WHOLE
    ),
    "budget allocator tile-attention.alpha": Change(
        "hired-tiles", f"{ALLOCATOR}.alpha", 0.1, 0.3, QUARTER, WHOLE
    ),
    "budget allocator tile-attention.layer": Change(
        "hired-tiles", f"{ALLOCATOR}.layer", 0, 0.5, QUARTER, WHOLE
    ),
    "budget allocator tile-attention.query": Change(
        "hired-tiles", f"{ALLOCATOR}.query", "any", "tokens", QUARTER, WHOLE
    ),
    "budget allocator tile-attention.tiles": Change(
        "hired-tiles", f"{ALLOCATOR}.tiles", None, [4, 1], QUARTER, {"frames": 5, **WHOLE}
    ),
    "budget allocator tile-attention.released": Change(
        "hired-tiles", f"{ALLOCATOR}.released", False, True, QUARTER, {"frames": 5, **WHOLE}
    ),
}

VARIANTS = {
    ("selector", "duplicate-removal"): [{"per_round": 1}, {"of": "tower", "query": "class"}],
    ("selector", "dpp"): [
        {"relevance": "relevance"},
        {"relevance": "salience@features", "of": "keys@-1"},
        {"relevance": "relevance", "released": True},
    ],
    ("selector", "window-cap"): [{"window": (2, 3), "global_ratio": 0.0}, {"global_ratio": 1.0}],
    ("budget allocator", "tile-attention"): [{"alpha": 1.0}, {"alpha": 0.0, "query": "tokens"}],
}
CUES = {"relevance": 0}
