"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change


def ranked(**settings):
    """Return a ranked reduction to half of the tokens before layer 1."""
    reducer = {"name": "ranked", "schedule": {1: 0.5}, **settings}
    return {"stages": {"llm": {"kind": "llm", "reducer": reducer}}}


RANKER, MERGER = "stages.llm.reducer.ranker", "stages.llm.reducer.merger"
RATERS = ranked(ranker="text-raters")
RECYCLE = ranked(merger="recycle", schedule={1: 0.1})
CHANGES = {
    "token ranker text-raters.heads": Change(RATERS, f"{RANKER}.heads", None, 1),
    "token ranker text-raters.divide_rotary": Change(
        RATERS, f"{RANKER}.divide_rotary", False, True
    ),
    "layer merger recycle.share": Change(RECYCLE, f"{MERGER}.share", 0.0, 0.9),
    "layer merger recycle.ties": Change(
        ranked(merger={"name": "recycle", "share": 1.0, "tokens_per_cluster": 20}),
        f"{MERGER}.ties",
        "order",
        "noise",
    ),
    "layer merger recycle.tokens_per_cluster": Change(
        RECYCLE, f"{MERGER}.tokens_per_cluster", 1, 10
    ),
}
VARIANTS = {
    ("token ranker", "text-raters"): [{"heads": 1}, {"divide_rotary": True}],
    ("layer merger", "recycle"): [{"share": 1.0, "tokens_per_cluster": 2}, {"share": 0.0}],
}
