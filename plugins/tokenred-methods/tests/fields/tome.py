"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

CHANGES = {
    "selector bipartite.of": Change("tome", "stages.frame.selector.of", "keys@-1", "features"),
}
VARIANTS = {("selector", "bipartite"): [{"of": "keys@-1"}]}
