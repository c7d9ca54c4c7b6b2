"""The newlines stage: where newline tokens stand, and what counts."""

import pytest
import torch

from tokenred import BudgetError, ConfigError, VisualTokens, load_pipeline
from tokenred.models.splice import ClipLayout, pack
from tokenred.types import NewlineToken

GRID = (3, 2)
NEWLINE = 7.0


def tokens(closes="row"):
    """Two frames whose tokens say their place; in each the middle row attracts no attention."""
    places = torch.arange(12.0).view(2, 6, 1)
    attention = torch.tensor([[3.0, 2, 0, 0, 5, 1], [4.0, 0, 0, 0, 0, 3]])
    newline = None if closes is None else NewlineToken(closes, torch.tensor([NEWLINE + 100]))
    video = VisualTokens.of(places, GRID, cues={"attention@-1": attention})
    return VisualTokens(**{**vars(video), "newline": newline})


def reduce(closes="row", n_anchors=2, **settings):
    return load_pipeline(
        {
            "budget": {"mode": "as-released"},
            "stages": {
                "frame": {
                    "kind": "frame",
                    "n_anchors": n_anchors,
                    "selector": {"name": "top-attention", "layer": -1},
                },
                "newlines": {"kind": "newlines", **settings},
            },
        }
    ).run(tokens(closes), trace=True)


def sequence(reduced):
    """Return the tokens by their places, and newline tokens as a bar."""
    return "".join("|" if x > 100 else f" {int(x)} " for x in reduced.features[:, 0].tolist())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, " 0 | 4 | 6 | 11 |"),
        ({"every": True}, " 0 || 4 | 6 || 11 |"),
        ({"behind": "frame"}, " 0  4 || 6  11 ||"),
        ({"every": True, "behind": "frame"}, " 0  4 ||| 6  11 |||"),
        ({"after": "frame"}, " 0  4 | 6  11 |"),
        ({"after": "token"}, " 0 | 4 | 6 | 11 |"),
        ({"after": "token", "behind": "frame"}, " 0  4 || 6  11 ||"),
    ],
)
def test_newline_tokens_stand_where_the_settings_say(settings, expected):
    reduced = reduce(**settings)
    assert sequence(reduced) == expected
    assert reduced.newline.tolist() == (reduced.features[:, 0] > 100).tolist()
    assert reduced.realised.n_tokens == 4
    assert reduced.realised.newline_tokens == expected.count("|")
    assert reduced.realised.tokens_per_frame == (2, 2)


def test_a_newline_token_has_the_place_of_what_it_closes_and_no_source():
    reduced = reduce(every=True)
    assert reduced.token_index[reduced.newline].tolist() == [1, 3, 5] * 2
    assert reduced.frame_index[reduced.newline].tolist() == [0] * 3 + [1] * 3
    trace = reduced.trace.to_dense()
    assert bool((trace[reduced.newline] == 0).all())
    assert trace[~reduced.newline].argmax(-1).tolist() == [0, 4, 6, 11]
    part = pack(reduced, ClipLayout("video", 2, GRID, "row"))
    assert part.places.tolist() == [0, 2, 5, 6, 8, 9, 11, 14, 16, 17]
    assert torch.equal(part.newline, reduced.newline)


@pytest.mark.parametrize("closes", [None, "end", "frame"])
def test_other_models_are_left_alone(closes):
    reduced = reduce(closes)
    assert reduced.newline is None
    assert sequence(reduced) == " 0  4  6  11 "


def test_models_that_close_frames_have_a_setting():
    assert sequence(reduce("frame", of="frame", after="frame")) == " 0  4 | 6  11 |"


def test_an_exact_budget_counts_the_other_tokens():
    exact = {
        "budget": {"retention_ratio": 0.5},
        "stages": {
            "frame": {"kind": "frame", "n_anchors": "budget", "selector": "uniform-grid"},
            "newlines": {"kind": "newlines", "every": True},
        },
    }
    reduced = load_pipeline(exact).run(tokens())
    assert (reduced.realised.n_tokens, reduced.realised.newline_tokens) == (6, 6)
    exact["stages"]["frame"]["n_anchors"] = 2
    with pytest.raises((BudgetError, ConfigError)):
        load_pipeline(exact).run(tokens())


def test_it_comes_last():
    stages = {
        "newlines": {"kind": "newlines"},
        "frame": {"kind": "frame", "n_anchors": 2, "selector": "uniform-grid"},
    }
    with pytest.raises(ConfigError, match=r"stages\.newlines: the newlines stage comes last"):
        load_pipeline({"budget": {"mode": "as-released"}, "stages": stages})
