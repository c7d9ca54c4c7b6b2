"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

STEPS, RANKER = "merge.grouper.steps", "prune.reducer.ranker"
FEW = {"prune.reducer.schedule": {1: 0.5}}
CHANGES = {
    "token grouper bipartite-steps.steps": Change("aim", STEPS, [0.5, 0.25], [3]),
    "token ranker page-rank.temperature": Change("aim", f"{RANKER}.temperature", 0.02, 50.0, FEW),
    "token ranker page-rank.iterations": Change("aim", f"{RANKER}.iterations", 1, 50, FEW),
    "token ranker page-rank.damping": Change("aim", f"{RANKER}.damping", 0.0, 1.0, FEW),
}
VARIANTS = {
    ("token grouper", "bipartite-steps"): [{"steps": [1]}, {"steps": [0.9, 0.9, 0.9]}],
    ("token ranker", "page-rank"): [{"damping": 1.0}, {"temperature": 0.01, "iterations": 50}],
}
