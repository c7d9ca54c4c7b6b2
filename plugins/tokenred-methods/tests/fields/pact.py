"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

REDUCER = "stages.llm.reducer"
KEEP = {"name": "ranked", "schedule": {1: 0.5}, "ranker": "key-query"}


def clustered(**settings):
    """Return clusters among half of the tokens before layer 1."""
    reducer = {"name": "clustered", "keep": KEEP, "cutoff": 0.4, **settings}
    return {"stages": {"llm": {"kind": "llm", "reducer": reducer}}}


ADAPTIVE = clustered(keep={**KEEP, "schedule": {1: "adaptive"}})
CHANGES = {
    "token ranker key-query.share": Change(ADAPTIVE, f"{REDUCER}.keep.ranker.share", 0.3, 0.7),
    "layer reducer clustered.keep": Change(
        clustered(), f"{REDUCER}.keep", KEEP, {**KEEP, "schedule": {1: 0.3}}
    ),
    "layer reducer clustered.cutoff": Change(clustered(), f"{REDUCER}.cutoff", 0.2, 0.9),
    "layer reducer clustered.take_in": Change(clustered(), f"{REDUCER}.take_in", None, 1.5),
    "layer reducer clustered.half_weights": Change(
        clustered(cutoff=0.9), f"{REDUCER}.half_weights", False, True
    ),
}
REQUIRED = {("layer reducer", "clustered"): {"keep": KEEP}}
VARIANTS = {
    ("token ranker", "key-query"): [{"share": 0.2}],
    ("layer reducer", "clustered"): [
        {"cutoff": 0.8, "take_in": None},
        {"cutoff": 0.0},
        {"take_in": 0.5, "half_weights": True},
    ],
}
