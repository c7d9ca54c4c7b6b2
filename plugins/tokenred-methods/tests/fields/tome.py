"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHANGES = {
    "selector bipartite.of": Change("tome", "stages.frame.selector.of", "keys@-1", "features"),
    "cost term bipartite.weight": Change(
        "tome",
        "stages.frame.cost.1.weight",
        1.0,
        1e-9,
        {"stages.frame.selector": "random", "budget.retention_ratio": 0.5},
    ),
}
VARIANTS = {("selector", "bipartite"): [{"of": "keys@-1"}]}
CONTRACT = {("selector", "bipartite"): {"least": 0.5}}
