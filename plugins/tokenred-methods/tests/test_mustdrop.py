"""MustDrop beyond its golden cases."""

from dataclasses import replace

import pytest
import torch
from property.cases import make

from tokenred import InputError
from tokenred.testing import layer_state
from tokenred.types import VisualTokens


def group(tokens, **settings):
    return make("token grouper", "alike-windows", **settings).group(
        tokens, generator=torch.Generator()
    )


def alike(rows, columns, frames=1):
    return VisualTokens.of(torch.ones(frames, rows * columns, 4), (rows, columns))


def test_what_fills_no_window_stays_or_is_refused() -> None:
    found = group(alike(3, 5), window=[2, 2])
    assert found.head.tolist() == [6, 8, 4, 9, 10, 11, 12, 13, 14]
    assert group(alike(1, 2), window=[2, 2]).head.tolist() == [0, 1]
    with pytest.raises(InputError, match="2x2 tokens do not fill a grid of 3x5"):
        group(alike(3, 5), window=[2, 2], border="refuse")


def test_a_window_that_has_lost_a_token_stays() -> None:
    tokens = alike(2, 4)
    keep = tokens.keep.clone()
    keep[0, 0] = False
    assert group(replace(tokens, keep=keep), window=[2, 2]).head.tolist() == [7, 1, 4, 5]


def test_frames_merge_by_themselves_unless_as_released() -> None:
    tokens = alike(2, 4, frames=2)
    features = tokens.features.clone()
    features[1, 0] = -features[1, 0]
    tokens = replace(tokens, features=features)
    assert len(group(tokens, window=[2, 2]).head) == 2 + 5
    assert len(group(tokens, window=[2, 2], same_number=True).head) == 5 + 5


def test_a_token_stays_that_all_or_one_of_the_text_looks_at() -> None:
    state = layer_state(1, (1, 3), before=0, after=2)
    rows = torch.zeros(1, 5, 5)
    rows[0, 3:, :3] = torch.tensor([[0.4, 0.0, 0.3], [0.4, 0.0, 0.0]])
    state = replace(state, attention=lambda queries: rows[:, queries])
    places = torch.arange(3)

    def stays(**settings):
        ranker = make("token ranker", "two-thresholds", **settings)
        kept = ranker.rank(state, places)
        assert ranker.n_kept(state, places) == int(kept.sum())
        return kept.tolist()

    assert stays(total=0.5, single=1.0) == [1, 0, 0]
    assert stays(total=1.0, single=0.25) == [1, 0, 1]
    assert stays(total=0.0, single=2.0) == [1, 1, 1]  # both thresholds are strict
