"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

OUTER = {"budget.retention_ratio": 0.25}
CHANGES = {
    "segmenter static-windows.tau": Change(
        "holitom-outer", "stages.windows.segmenter.tau", 0.3, 0.9, OUTER
    ),
    "segmenter static-windows.max_window_frames": Change(
        "holitom-outer",
        "stages.windows.segmenter.max_window_frames",
        2,
        8,
        {**OUTER, "stages.windows.segmenter.tau": 0.3, "stages.repeats.rule.tau": 0.3},
    ),
    "static rule consecutive.tau": Change(
        "holitom-outer",
        "stages.repeats.rule.tau",
        0.3,
        0.9,
        {**OUTER, "stages.windows.segmenter.tau": 0.3},
    ),
}
VARIANTS = {
    ("segmenter", "static-windows"): [{"tau": -1.0}, {"tau": 1.0}, {"max_window_frames": 1}],
    ("static rule", "consecutive"): [{"tau": 0.3}],
}
