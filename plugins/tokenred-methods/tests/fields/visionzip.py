"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHANGES = {
    "selector evenly-spaced.spacing": Change(
        "visionzip",
        "stages.contextual.selector.spacing",
        "even",
        "whole-step",  # 2 of 29: number 15 against number 14
        others={"budget.retention_ratio": 0.25},
        video={"grid": (12, 12)},
    ),
}
VARIANTS = {
    ("selector", "evenly-spaced"): [{"spacing": "whole-step"}],
    ("stage", "visionzip-released-frame"): [
        {"coupler": "nearest", "aggregator": "mean", "n_anchors": 3}
    ],
}
REQUIRED = {("stage", "visionzip-released-frame"): {"selector": "top-attention"}}
