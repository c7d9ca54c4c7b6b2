"""Sequence surgery on plain tensors: the short prompt, worked out by hand."""

from dataclasses import replace

import pytest
import torch

from tokenred.errors import InputError
from tokenred.models.splice import (
    ClipLayout,
    VisualPart,
    count_newlines,
    lay_out,
    original_positions,
    pack,
    placeholder_columns,
    scatter_features,
    token_cells,
)
from tokenred.types import Realised, ReducedTokens

IMAGE, VIDEO, PAD = 98, 99, 0


def part(places, n_placeholders, first=0):
    """A video whose i-th token is the vector (first + i,)."""
    features = torch.arange(first, first + len(places)).float()[:, None]
    places = torch.tensor(places, dtype=torch.long)
    never, zero = places < 0, torch.zeros_like(places)
    layout = ClipLayout("video", 1, (1, n_placeholders))
    return VisualPart(features, places, never, zero, places, layout)


def spliced(ids, parts, mask=None):
    ids = torch.tensor(ids)
    mask = None if mask is None else torch.tensor(mask)
    layout = lay_out(ids, mask, {"image": IMAGE, "video": VIDEO}, parts, PAD)
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


def test_cells_on_the_llm_grid_are_the_raster():
    tokens = reduced([0, 0, 2], [0, 5, 3], (2, 3))
    assert token_cells(tokens, (2, 3)).tolist() == [0, 5, 3]


def test_cells_from_another_grid_lie_under_the_centre():
    coarse = reduced([0] * 4, [0, 1, 2, 3], (2, 2))
    assert token_cells(coarse, (4, 4)).tolist() == [5, 7, 13, 15]
    fine = reduced([1] * 4, [0, 5, 10, 15], (4, 4))
    assert token_cells(fine, (2, 2)).tolist() == [0, 0, 3, 3]
    odd = reduced([0] * 4, [0, 1, 2, 3], (2, 2))
    assert token_cells(odd, (3, 3)).tolist() == [0, 2, 6, 8]


@pytest.mark.parametrize(
    ("newlines", "n_placeholders", "places"),
    [
        ("none", 12, [0, 2, 3, 11]),
        ("end", 13, [0, 2, 3, 11, 12]),
        ("frame", 14, [0, 2, 3, 6, 12, 13]),
        ("row", 16, [0, 2, 3, 4, 7, 14, 15]),
    ],
)
def test_newlines_follow_what_is_left(newlines, n_placeholders, places):
    layout = ClipLayout("video", 2, (2, 3), newlines)
    assert layout.n_placeholders == n_placeholders
    tokens = reduced([0, 0, 0, 1], [0, 2, 3, 5], (2, 3))
    packed = pack(tokens, layout, torch.full((1,), 7.0))
    assert packed.places.tolist() == places
    assert packed.newline.sum() == count_newlines(tokens, layout) == len(places) - 4
    assert packed.features[:, 0].tolist() == [7.0 * is_newline for is_newline in packed.newline]
    text = packed.frame_index[~packed.newline], packed.token_index[~packed.newline]
    assert [each.tolist() for each in text] == [[0, 0, 0, 1], [0, 2, 3, 5]]


def test_a_whole_clip_with_newlines_has_every_place_once():
    for newlines in ("none", "end", "frame", "row"):
        layout = ClipLayout("video", 2, (2, 3), newlines)
        tokens = reduced([0] * 6 + [1] * 6, [*range(6), *range(6)], (2, 3))
        packed = pack(tokens, layout, torch.zeros(1))
        assert packed.places.tolist() == list(range(layout.n_placeholders))


def test_images_and_videos_go_to_their_own_placeholders():
    image = part([1], 2, first=10)
    image = replace(image, layout=replace(image.layout, kind="image"))
    _, values = spliced([[98, 98, 1, 99, 99]], [image, part([0], 2)])
    assert values == [[10, 100, 0]]


def two_clips():
    """Text, layout and parts of two rows of five."""
    parts = [part([1, 0], 2), part([2, 0, 0], 3, 10)]
    ids = torch.tensor([[1, 99, 99, 2, 5], [99, 3, 99, 99, 4]])
    return lay_out(ids, None, {"video": VIDEO}, parts, PAD), parts


def test_features_are_written_once_where_no_gradient_needs_the_rest():
    layout, parts = two_clips()
    embeddings = layout.input_ids[..., None].float() * 100
    expected = scatter_features(embeddings, layout, parts)
    assert expected.data_ptr() != embeddings.data_ptr()
    with torch.no_grad():
        found = scatter_features(embeddings, layout, parts)
    assert found.data_ptr() == embeddings.data_ptr()
    assert torch.equal(found, expected)
    assert found[..., 0].tolist() == [[100, 0, 1, 200, 500], [11, 12, 300, 10, 400]]


def test_gradients_reach_text_and_features():
    layout, parts = two_clips()
    embeddings = torch.zeros(*layout.input_ids.shape, 1, requires_grad=True)
    features = [each.features.requires_grad_() for each in parts]
    weights = torch.arange(10.0).view(2, 5, 1)
    (scatter_features(embeddings, layout, parts) * weights).sum().backward()
    assert embeddings.grad[..., 0].tolist() == [[0, 0, 0, 3, 4], [0, 0, 7, 0, 9]]
    assert [each.grad[:, 0].tolist() for each in features] == [[1, 2], [8, 5, 6]]
