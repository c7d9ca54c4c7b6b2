"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

MERGE = {"budget.retention_ratio": 0.25, "stages.still.rule.tau": 0.3}
CHANGES = {
    "segmenter frame-clusters.share": Change(
        "prunevid-merge", "stages.segments.segmenter.share", 0.25, 0.5, MERGE
    ),
    "segmenter frame-clusters.neighbours": Change(
        "prunevid-merge",
        "stages.segments.segmenter.neighbours",
        2,
        7,
        MERGE,
        {"frames": 16},
    ),
    "segmenter frame-clusters.released": Change(
        "prunevid-merge", "stages.segments.segmenter.released", False, True, MERGE, {"frames": 6}
    ),
    "static rule pairwise.tau": Change(
        "prunevid-merge", "stages.still.rule.tau", 0.3, 0.9, {"budget.retention_ratio": 0.25}
    ),
    "stage prunevid-released-frame.spare_up_to": Change(
        "prunevid-merge-released", "stages.dynamic.spare_up_to", 0, 40, video={"similar": 0.75}
    ),
}
REQUIRED = {("stage", "prunevid-released-frame"): {"selector": "density-peaks"}}
VARIANTS = {
    ("segmenter", "frame-clusters"): [{"share": 1.0}, {"neighbours": 1}],
    ("static rule", "pairwise"): [{"tau": 0.3}],
    ("stage", "prunevid-released-frame"): [{"n_anchors": 0.3, "spare_up_to": 4}],
}
