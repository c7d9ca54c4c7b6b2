"""What the property tests of tokenred need to know of this plugin."""

from tokenred.testing import Change

RANKER = "stages.llm.reducer.ranker"


def pivots(**settings):
    """Return a reduction before layer 1 to what pivots keep."""
    ranker = {"name": "far-from-pivots", "image_pivots": 2, "text_pivots": 2, **settings}
    reducer = {"name": "ranked", "schedule": {1: "adaptive"}, "ranker": ranker}
    return {"stages": {"llm": {"kind": "llm", "reducer": reducer}}}


CHANGES = {
    "token ranker far-from-pivots.image_pivots": Change(pivots(), f"{RANKER}.image_pivots", 0, 3),
    "token ranker far-from-pivots.text_pivots": Change(
        pivots(exact=False), f"{RANKER}.text_pivots", 0, 3
    ),
    "token ranker far-from-pivots.share": Change(pivots(), f"{RANKER}.share", 0.3, 0.7),
    "token ranker far-from-pivots.tokens": Change(pivots(), f"{RANKER}.tokens", 5, 9),
    "token ranker far-from-pivots.exact": Change(pivots(tokens=8), f"{RANKER}.exact", True, False),
    "token ranker far-from-pivots.too_few": Change(
        pivots(exact=False, share=1.0), f"{RANKER}.too_few", "take", "refuse"
    ),
    "token ranker far-from-pivots.order": Change(
        pivots(image_pivots=4, tokens=12), f"{RANKER}.order", "norm", "hash"
    ),
}
VARIANTS = {
    ("token ranker", "far-from-pivots"): [
        {"share": 0.9},
        {"tokens": 6, "exact": False, "order": "hash"},
        {"image_pivots": 0, "text_pivots": 1},
    ],
}
