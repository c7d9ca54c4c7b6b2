"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

LONG = {
    "budget.retention_ratio": 0.3,
    "stages.segments.segmenter": {"name": "fixed-length", "segment_frames": 8},
}
ALIKE = {"similar": 0.9}
SALIENT, CONTEXT = "stages.salient.allocator", "stages.context.allocator"
FULL = {**LONG, f"{SALIENT}.ignore": None, "budget.retention_ratio": 0.9}
"""Frames so full that the caps of the release hold."""
WHOLE = {"native_pool": "none"}
CHANGES = {
    "budget allocator fastvid-salient.ignore": Change(
        "fastvid-qwen", f"{SALIENT}.ignore", None, 0.5, LONG, ALIKE
    ),
    "budget allocator fastvid-salient.descriptor": Change(
        "fastvid-qwen", f"{SALIENT}.descriptor", "mean-feature", "pooler", LONG, ALIKE
    ),
    "budget allocator fastvid-salient.released": Change(
        "fastvid-released-qwen", f"{SALIENT}.released", "llava-video", "qwen2.5-vl", LONG, ALIKE
    ),
    "budget allocator fastvid-salient.context": Change(
        "fastvid-released-qwen", f"{SALIENT}.context", 0.4, 0.1, FULL, WHOLE
    ),
    "budget allocator fastvid-salient.every": Change(
        "fastvid-released-qwen", f"{SALIENT}.every", 4, 1, FULL, WHOLE
    ),
    "budget allocator fastvid-context.every": Change(
        "fastvid-qwen", f"{CONTEXT}.every", 4, 2, LONG
    ),
    "budget allocator fastvid-context.released": Change(
        "fastvid-released-llava-video", f"{CONTEXT}.released", "llava-video", "onevision", LONG
    ),
}
VARIANTS = {
    ("budget allocator", "fastvid-salient"): [
        {"ignore": 0.5},
        {"ignore": 0.0, "descriptor": "pooler"},
    ],
    ("budget allocator", "fastvid-context"): [{"every": 1}],
    ("stage", "fastvid-released-frame"): [
        {
            "n_anchors": 2,
            "scope": "segment",
            "sources": "all",
            "coupler": "nearest",
            "aggregator": "mean",
        }
    ],
}
REQUIRED = {("stage", "fastvid-released-frame"): {"selector": "density-peaks"}}
