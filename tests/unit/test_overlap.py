"""Overlap and coverage of linear maps: by hand on tiny maps, and as properties of any map."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from tokenred import load_pipeline
from tokenred.errors import InputError
from tokenred.evaluation.overlap.kept import (
    NEGLIGIBLE,
    KeptTokens,
    adjusted_iou,
    chance_iou,
    coverage,
    iou,
    kept_tokens,
    overlap_coefficient,
    rank_correlation,
    source_shares,
)
from tokenred.evaluation.overlap.reconstruction import reconstruct
from tokenred.testing import video_tokens
from tokenred.types import Realised, ReducedTokens, VisualTokens


def clip(features, frames=1):
    """Return tokens of one row a frame."""
    values = torch.tensor(features, dtype=torch.float32).reshape(frames, -1, len(features[0]))
    return VisualTokens.of(values, (1, values.shape[1]))


def reduced(tokens, weights, places=None):
    """Return a reduction by a dense map; outputs stand at ``places``, by default the first ones."""
    dense = torch.tensor(weights, dtype=torch.float32)
    where = torch.tensor(range(len(dense)) if places is None else places)
    per_frame = tokens.keep.shape[1]
    return ReducedTokens(
        dense @ tokens.features.flatten(0, 1),
        where // per_frame,
        where % per_frame,
        torch.ones(len(dense)),
        tokens.grid,
        Realised(len(dense), tokens.keep.numel(), (len(dense),), 0.0, ()),
        dense.to_sparse().coalesce(),
    )


def chosen(places, shape):
    """Return a set of places."""
    members = torch.zeros(shape, dtype=torch.bool)
    members.view(-1)[list(places)] = True
    return members


def test_iou_and_overlap_by_hand():
    one, other = chosen({0, 1, 2}, (2, 3)), chosen({2, 3}, (2, 3))
    assert iou(one, other) == 1 / 4
    assert overlap_coefficient(one, other) == 1 / 2
    assert overlap_coefficient(one, chosen({0}, (2, 3))) == 1


@pytest.mark.parametrize(("n", "a", "b"), [(4, 2, 2), (5, 2, 4), (6, 1, 3), (3, 3, 2)])
def test_chance_level_is_the_mean_over_all_pairs_of_sets(n, a, b):
    sets = {size: [chosen(s, n) for s in itertools.combinations(range(n), size)] for size in (a, b)}
    values = [iou(one, other) for one in sets[a] for other in sets[b]]
    assert chance_iou(n, a, b) == pytest.approx(np.mean(values))


def test_chance_level_by_simulation_at_the_size_of_a_video():
    n, a, b = 8 * 196, 160, 400
    draw = np.random.default_rng(0)
    values = []
    for _ in range(400):
        one, other = (set(draw.permutation(n)[:size]) for size in (a, b))
        values.append(len(one & other) / len(one | other))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(chance_iou(n, a, b) - np.mean(values)) < 4 * error
    assert chance_iou(3136, 320, 320) == pytest.approx(0.102 / (2 - 0.102), rel=0.01)


def test_adjusted_iou_is_zero_by_chance_and_one_at_best():
    one = chosen({0, 1}, 6)
    values = [adjusted_iou(one, chosen(s, 6)) for s in itertools.combinations(range(6), 3)]
    assert np.mean(values) == pytest.approx(0)
    assert adjusted_iou(one, one) == pytest.approx(1)
    assert 0 < adjusted_iou(one, chosen({0, 1, 5}, 6)) < 1
    assert adjusted_iou(one, chosen({2, 3}, 6)) < 0
    assert adjusted_iou(one, chosen(range(6), 6)) is None


@pytest.mark.parametrize(("n", "a", "b"), [(4, 0, 2), (4, 2, 5)])
def test_sets_that_cannot_be_have_no_chance_level(n, a, b):
    with pytest.raises(InputError, match="no chance level"):
        chance_iou(n, a, b)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_rank_correlation_is_spearmans(pairs):
    from scipy.stats import rankdata

    one, other = (torch.tensor(each, dtype=torch.float64) for each in zip(*pairs, strict=True))
    found = rank_correlation(one, other)
    assert found == rank_correlation(other, one)
    if len(one.unique()) == 1 or len(other.unique()) == 1:
        assert found is None
    else:
        expected = np.corrcoef(rankdata(one), rankdata(other))[0, 1]
        assert found == pytest.approx(expected, abs=1e-9)


def test_shares_have_no_sign_no_scale_and_no_dust():
    tokens = clip([[1.0], [2.0], [4.0]])
    found = source_shares(
        reduced(tokens, [[2.0, -2.0, 0.0], [0.0, NEGLIGIBLE / 10, 1.0]])
    ).to_dense()
    assert found.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, pytest.approx(1)]]


def test_kept_tokens_need_a_trace_that_holds_something():
    tokens = video_tokens()
    with pytest.raises(InputError, match="trace=True"):
        source_shares(load_pipeline("random").run(tokens))
    with pytest.raises(InputError, match="no source token"):
        source_shares(reduced(clip([[1.0], [2.0]]), [[0.0, 0.0]]))


def test_coverage_by_hand():
    tokens = clip([[1.0]] * 8, frames=2)
    found = kept_tokens(
        reduced(tokens, [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0, 0, 0, 0]]), tokens
    )
    assert found.importance.tolist() == [1, 0.5, 0.5, 0, 0, 0, 0, 0]
    part = coverage(found)
    assert part.tokens == 3 / 8
    assert part.effective_tokens == pytest.approx(2**2 / (8 * 1.5))
    assert part.least_covered_frame == 0
    assert part.cells == 2 / 4
    assert part.frames == 1 / 2
    assert part.effective_frames == pytest.approx(1 / 2)


def test_effective_frames_tell_even_from_uneven():
    weight = torch.ones(8, dtype=torch.float64)
    even = KeptTokens(chosen({0, 1, 4, 5}, (2, 4)), weight)
    uneven = KeptTokens(chosen({0, 1, 2, 4}, (2, 4)), weight)
    assert coverage(even).effective_frames == pytest.approx(1)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert coverage(uneven).effective_frames == pytest.approx(np.exp(entropy) / 2)


def test_places_are_those_of_the_llms_grid_and_weights_those_of_the_encoders():
    tokens = video_tokens(grid=(6, 6), native_pool="bilinear")
    found = kept_tokens(load_pipeline("random").run(tokens, trace=True), tokens)
    assert found.places.shape == (4, 9)
    assert found.places.sum(-1).tolist() == [1] * 4
    assert found.importance.shape == (4 * 36,)
    assert found.importance.sum() == pytest.approx(4)


def test_reconstruction_of_two_tokens_averaged_by_hand():
    tokens = clip([[1.0, 0.0], [3.0, 0.0]])
    found = reconstruct(reduced(tokens, [[0.5, 0.5]]), tokens)
    # Both become (2, 0), which is also their mean; a multiple of it is each of them.
    assert found.error == pytest.approx(1)
    assert found.least_squares_error == pytest.approx(0, abs=1e-12)
    assert found.nearest_error == pytest.approx(1)
    assert found.radius == pytest.approx(1)
    assert found.cosine == pytest.approx(1)


def test_reconstruction_of_a_dropped_token_by_hand():
    tokens = clip([[1.0, 0.0], [0.0, 1.0]])
    found = reconstruct(reduced(tokens, [[1.0, 0.0]]), tokens)
    # The second one is rebuilt as the only output, (1, 0), sqrt(2) away; all variance is 1.
    assert found.error == pytest.approx(2**0.5)
    assert found.least_squares_error == pytest.approx(1)
    assert found.nearest_error == pytest.approx(2**0.5)
    assert found.radius == pytest.approx(2**0.5 / 0.5**0.5)
    assert found.cosine == pytest.approx(0.5)


def test_what_flowed_into_another_frame_is_rebuilt_from_there():
    tokens = clip([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], frames=2)
    first_frame_stands_for_both = [[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]]
    found = reconstruct(reduced(tokens, first_frame_stands_for_both), tokens)
    assert found.error == pytest.approx(0)
    dropped = reconstruct(reduced(tokens, [[1, 0, 0, 0], [0, 1, 0, 0]]), tokens)
    assert dropped.nearest_error == pytest.approx(0)  # a like token is kept
    assert dropped.error == pytest.approx(0.5**0.5)  # but nothing says which


def test_a_clip_of_equal_tokens_has_no_error():
    tokens = clip([[1.0, 2.0]] * 4)
    found = reconstruct(reduced(tokens, [[1.0, 0, 0, 0]]), tokens)
    assert (found.error, found.radius, found.least_squares_error) == (0, 0, 0)


PRESETS = ("random", "downsample", "top-attention", "aot-paper", "cosine-merge", "vanilla")


@settings(max_examples=examples(30))
@given(
    st.sampled_from(PRESETS),
    st.sampled_from(["none", "bilinear"]),
    st.integers(0, 50),
    st.sampled_from([0.12, 0.5]),
)
def test_properties_of_any_reduction(name, pool, seed, retention):
    pipeline = load_pipeline(
        name, {} if name == "vanilla" else {"budget.retention_ratio": retention}
    )
    tokens = video_tokens(needs=pipeline.needs, native_pool=pool, seed=seed, dim=24)
    left = pipeline.run(tokens, trace=True)
    part, rebuilt = coverage(kept_tokens(left, tokens)), reconstruct(left, tokens)
    assert rebuilt.least_squares_error <= rebuilt.error + 1e-6
    assert 0 <= rebuilt.nearest_error <= rebuilt.radius + 1e-9
    assert -1 <= rebuilt.cosine <= 1 + 1e-9
    for share in vars(part).values():
        assert 0 <= share <= 1 + 1e-9
    assert part.effective_tokens <= part.tokens + 1e-9
    assert part.least_covered_frame <= part.tokens
    if name == "vanilla" and pool == "none":
        assert rebuilt.error == rebuilt.nearest_error == rebuilt.radius == 0
        assert rebuilt.least_squares_error < 1e-6
        assert part.tokens == part.effective_tokens == part.cells == 1


@settings(max_examples=examples(10))
@given(st.integers(0, 50), st.floats(0.1, 50))
def test_errors_have_no_unit(seed, scale):
    tokens = video_tokens(seed=seed)
    scaled = VisualTokens.of(tokens.features * scale, tokens.grid)
    pipeline = load_pipeline("downsample")
    one, other = (reconstruct(pipeline.run(each, trace=True), each) for each in (tokens, scaled))
    for name, value in vars(one).items():
        assert getattr(other, name) == pytest.approx(value, rel=1e-4, abs=1e-5)


@given(st.sets(st.integers(0, 19), min_size=1), st.sets(st.integers(0, 19), min_size=1))
def test_likeness_is_symmetric_and_bounded(one, other):
    a, b = chosen(one, 20), chosen(other, 20)
    assert iou(a, b) == iou(b, a) == len(one & other) / len(one | other)
    assert overlap_coefficient(a, b) == overlap_coefficient(b, a) >= iou(a, b)
    assert chance_iou(20, len(one), len(other)) == pytest.approx(
        chance_iou(20, len(other), len(one))
    )
    adjusted = adjusted_iou(a, b)
    assert adjusted == adjusted_iou(b, a)
    assert adjusted is None or adjusted <= 1 + 1e-9
