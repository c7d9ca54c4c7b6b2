"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

MERGING = {
    "budget.retention_ratio": 0.2,
    "stages.frame.kind": "rounds-frame",
    "stages.frame.selector": "uniform-grid",
    "stages.frame.coupler": "nearest",
    "stages.frame.aggregator": "mean",
}
CHANGES = {
    "selector bipartite.of": Change(
        "tome", "stages.frame.selector.of", "keys@features", "features"
    ),
    "stage rounds-frame.max_drop": Change(
        "top-attention", "stages.frame.max_drop", 0.5, 0.3, MERGING
    ),
}
REQUIRED = {("stage", "rounds-frame"): {"selector": "random"}}
VARIANTS = {
    ("selector", "bipartite"): [{"of": "keys@features"}],
    ("stage", "rounds-frame"): [{"coupler": "nearest", "aggregator": "mean"}],
}
