"""Sequence surgery on plain tensors: the short prompt, worked out by hand."""

import pytest
import torch

from tokenred.errors import InputError
from tokenred.models.splice import (
    VisualPart,
    lay_out,
    original_positions,
    placeholder_columns,
    scatter_features,
    token_places,
)
from tokenred.types import Realised, ReducedTokens

VIDEO, PAD = 99, 0


def part(places, n_placeholders, first=0):
    """A video whose i-th token is the vector (first + i,)."""
    features = torch.arange(first, first + len(places)).float()[:, None]
    return VisualPart(features, torch.tensor(places, dtype=torch.long), n_placeholders)


def spliced(ids, parts, mask=None):
    ids = torch.tensor(ids)
    mask = None if mask is None else torch.tensor(mask)
    layout = lay_out(ids, mask, VIDEO, parts, PAD)
    embeddings = layout.input_ids[..., None].float() * 100
    return layout, scatter_features(embeddings, layout, parts)[..., 0].tolist()


def test_placeholders_shrink_in_place():
    layout, values = spliced([[1, 99, 99, 99, 99, 2, 3]], [part([1, 3], 4)])
    assert layout.input_ids.tolist() == [[1, 99, 99, 2, 3]]
    assert layout.source_column.tolist() == [[0, 2, 4, 5, 6]]
    assert layout.attention_mask.tolist() == [[1, 1, 1, 1, 1]]
    assert values == [[100, 0, 1, 200, 300]]


def test_a_place_may_be_inherited_twice_and_order_is_kept():
    layout, values = spliced([[1, 99, 99, 99, 2]], [part([2, 0, 0, 2], 3)])
    assert layout.source_column.tolist() == [[0, 3, 1, 1, 3, 4]]
    assert values == [[100, 0, 1, 2, 3, 200]]


def test_a_video_may_vanish():
    layout, values = spliced([[1, 99, 99, 2]], [part([], 2)])
    assert layout.input_ids.tolist() == [[1, 2]]
    assert values == [[100, 200]]


def test_runs_keep_their_own_tokens():
    ids = [[1, 99, 99, 5, 99, 99, 6]]
    layout, values = spliced(ids, [part([3, 0, 2, 1], 4)])
    assert values == [[100, 1, 3, 500, 0, 2, 600]]
    assert layout.source_column.tolist() == [[0, 1, 2, 3, 5, 4, 6]]


def test_neighbouring_videos_stay_apart():
    _, values = spliced([[99, 99, 99, 99, 1]], [part([1, 0], 2), part([1], 2, first=10)])
    assert values == [[0, 1, 10, 100]]


def test_rows_are_padded_again_on_the_left():
    ids = [[0, 0, 1, 99, 99, 2], [3, 99, 99, 99, 99, 4]]
    mask = [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    layout, values = spliced(ids, [part([0, 1], 2), part([3], 4, first=10)], mask)
    assert layout.input_ids.tolist() == [[1, 99, 99, 2], [0, 3, 99, 4]]
    assert layout.attention_mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert values == [[100, 0, 1, 200], [0, 300, 10, 400]]
    assert layout.take(torch.tensor(ids) * 2, -7).tolist() == [[2, 198, 198, 4], [-7, 6, 198, 8]]


def test_rows_that_were_padded_on_the_right_are_so_again():
    ids = [[1, 99, 99, 2, 0, 0], [3, 99, 99, 99, 99, 4]]
    mask = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    layout, values = spliced(ids, [part([1], 2), part([0, 1, 2, 3], 4, first=10)], mask)
    assert layout.attention_mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert values == [[100, 0, 200, 0, 0, 0], [300, 10, 11, 12, 13, 400]]


def test_a_row_without_video_keeps_its_text():
    _, values = spliced([[1, 2, 3], [4, 99, 99]], [part([0], 2)])
    assert values == [[100, 200, 300], [0, 400, 0]]


def test_original_positions_count_from_the_first_real_token():
    ids, mask = [[0, 0, 1, 99, 99, 2]], [[0, 0, 1, 1, 1, 1]]
    layout, _ = spliced(ids, [part([1], 2)], mask)
    assert original_positions(layout, torch.tensor(mask)).tolist() == [[0, 2, 3]]


def test_nothing_dropped_is_the_identity():
    ids = [[0, 1, 99, 99, 2], [3, 99, 99, 99, 4]]
    mask = [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    layout, _ = spliced(ids, [part([0, 1], 2), part([0, 1, 2], 3)], mask)
    assert layout.input_ids.tolist() == ids
    assert layout.attention_mask.tolist() == mask


@pytest.mark.parametrize(
    ("ids", "counts", "sentence"),
    [
        ([[1, 99, 99]], [3], "hold 2 video placeholders, but the videos need 3"),
        ([[1, 99, 99]], [1], "hold 2 video placeholders, but the videos need 1"),
        ([[99, 99], [99, 99]], [3, 1], "spread over two prompts"),
    ],
)
def test_placeholders_that_do_not_fit_are_refused(ids, counts, sentence):
    with pytest.raises(InputError, match=sentence):
        placeholder_columns(torch.tensor(ids), VIDEO, counts)


def reduced(frame_index, token_index, grid):
    n = len(frame_index)
    realised = Realised(n, 100, (n,), 0.0, ())
    indices = torch.tensor(frame_index), torch.tensor(token_index)
    return ReducedTokens(torch.zeros(n, 1), *indices, torch.ones(n), grid, realised)


def test_places_on_the_llm_grid_are_the_raster():
    tokens = reduced([0, 0, 2], [0, 5, 3], (2, 3))
    assert token_places(tokens, (2, 3)).tolist() == [0, 5, 15]


def test_places_from_another_grid_lie_under_the_centre():
    coarse = reduced([0] * 4, [0, 1, 2, 3], (2, 2))
    assert token_places(coarse, (4, 4)).tolist() == [5, 7, 13, 15]
    fine = reduced([1] * 4, [0, 5, 10, 15], (4, 4))
    assert token_places(fine, (2, 2)).tolist() == [4, 4, 7, 7]
    odd = reduced([0] * 4, [0, 1, 2, 3], (2, 2))
    assert token_places(odd, (3, 3)).tolist() == [0, 2, 6, 8]
