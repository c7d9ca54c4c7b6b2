"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

LARGE = {"grid": (12, 12)}
LOW = {"stages.kept.selector.fence": 0.5}
"""A limit that the cues of the tests exceed."""

SAMPLED = {"stages.kept.selector.first.fence": 0.5}


def _outliers(field, first, second, others=LOW):
    return Change(
        "prumerge-adaptive", f"stages.kept.selector.{field}", first, second, others, LARGE
    )


FIXED = "prumerge-plus-fixed-released"


def _fixed(field, first, second):
    return Change(FIXED, f"stages.kept.{field}", first, second, {}, {"grid": (24, 24)})


SAMPLES = {"name": "with-samples", "released": "fixed"}
CHANGES = {
    "stage prumerge-released-frame.selector": _fixed(
        "selector", SAMPLES, {**SAMPLES, "first": "random"}
    ),
    "stage prumerge-released-frame.mass": _fixed("mass", "salience@-1", "salience@-2"),
    "stage prumerge-released-frame.n_anchors": _fixed("n_anchors", 0.25, 0.125),
    "stage prumerge-released-frame.cost": _fixed("cost", ["cosine"], ["spatial"]),
    "stage prumerge-released-frame.combine": Change(
        FIXED,
        "stages.kept.combine",
        "sum",
        "product",
        {"stages.kept.cost": ["cosine", "spatial"]},
        {"grid": (24, 24)},
    ),
    "stage prumerge-released-frame.coupler": _fixed(
        "coupler", "neighbours", {"name": "neighbours", "neighbours": 3}
    ),
    "stage prumerge-released-frame.aggregator": _fixed("aggregator", "sum", "mean"),
    "coupler neighbours.neighbours": Change(
        "prumerge",
        "stages.kept.coupler.neighbours",
        32,
        2,
        {"budget.retention_ratio": 0.25, "stages.kept.aggregator.strength": 10.0},
        LARGE,
    ),
    "coupler neighbours.fewer": Change(
        "prumerge", "stages.kept.coupler.fewer", "all", "error", {"budget.retention_ratio": 0.5}
    ),
    "selector outliers.layer": _outliers("layer", -1, -2),
    "selector outliers.query": _outliers("query", "any", "class"),
    "selector outliers.fence": _outliers("fence", 1.5, 0.5, {}),
    "selector outliers.scope": _outliers("scope", "frame", "video"),
    "selector outliers.released": _outliers("released", False, True, {}),
    "selector with-samples.first": Change(
        "prumerge-plus",
        "stages.kept.selector.first",
        "top-attention",
        "random",
        {"budget.retention_ratio": 0.25},
        LARGE,
    ),
    "selector with-samples.samples": Change(
        "prumerge-plus-adaptive", "stages.kept.selector.samples", 1.0, 3.0, SAMPLED, LARGE
    ),
    "selector with-samples.released": Change(
        "prumerge-plus-adaptive", "stages.kept.selector.released", "no", "adaptive", SAMPLED, LARGE
    ),
}
VARIANTS = {
    ("coupler", "neighbours"): [{"neighbours": 1}, {"neighbours": 3}],
    ("selector", "outliers"): [
        {"fence": 0.0, "query": "class"},
        {"scope": "video", "fence": 0.3},
        {"scope": "video", "fence": 0.3, "released": True},
    ],
    ("selector", "with-samples"): [
        {"samples": 0.3},
        {"samples": 3.0, "first": {"name": "outliers", "fence": 0.3}},
        {"samples": 3.0, "first": {"name": "outliers", "fence": 0.3}, "released": "adaptive"},
    ],
    ("stage", "prumerge-released-frame"): [
        {"coupler": "neighbours", "aggregator": {"name": "sum", "own": "one"}, "n_anchors": 0.5}
    ],
}
REQUIRED = {
    ("stage", "prumerge-released-frame"): {"selector": "top-attention", "mass": "salience@-1"}
}
