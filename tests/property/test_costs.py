"""What cost terms say a pair costs, against the formula pair by pair."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples

from property.cases import make
from tokenred.testing.strategies import token_groups
from tokenred.types import TokenGroup

PAIRS = st.tuples(token_groups(batch=(2,)), token_groups(batch=(2,)))


@given(PAIRS, st.sampled_from((0.0, 1e-6, 0.3)), st.sampled_from(("none", "minimum")))
@settings(max_examples=examples(25))
def test_cosine_is_one_minus_the_clipped_similarity(
    pair: tuple[TokenGroup, TokenGroup], clip: float, shift: str
) -> None:
    sources, anchors = pair
    wanted = 1 - torch.nn.functional.cosine_similarity(
        sources.features[:, :, None], anchors.features[:, None], dim=-1
    ).clamp(clip - 1, 1 - clip)
    if shift == "minimum":  # of each problem, not of the batch and not of a row
        wanted = wanted - wanted.flatten(1).min(1).values[:, None, None]
    cost = make("cost term", "cosine", clip=clip, shift=shift).cost(sources, anchors)
    torch.testing.assert_close(cost, wanted, atol=1e-5, rtol=0)


def test_cosine_ignores_length_and_sees_direction() -> None:
    def group(*rows: list[float]) -> TokenGroup:
        return TokenGroup(torch.tensor(rows), torch.zeros(len(rows), 2), torch.zeros(len(rows)))

    sources = group([1.0, 0.0], [0.0, 5.0], [-2.0, 0.0], [0.0, 0.0])
    cost = make("cost term", "cosine").cost(sources, group([3.0, 0.0]))
    assert cost.flatten().tolist() == [0.0, 1.0, 2.0, 1.0]


@given(PAIRS)
@settings(max_examples=examples(15))
def test_spatial_is_the_distance_on_the_grid(pair: tuple[TokenGroup, TokenGroup]) -> None:
    cost = make("cost term", "spatial").cost(*pair)
    for i in range(cost.shape[1]):
        for j in range(cost.shape[2]):
            delta = pair[0].positions[1, i] - pair[1].positions[1, j]
            assert abs(float(cost[1, i, j]) - math.hypot(*delta.tolist())) < 1e-5
    assert float(cost.max()) <= math.sqrt(2)


@given(PAIRS, st.floats(0.3, 5), st.sampled_from((None, 1.0, 2.5)))
@settings(max_examples=examples(20))
def test_temporal_rises_with_the_gap(
    pair: tuple[TokenGroup, TokenGroup], sigma: float, limit: float | None
) -> None:
    term = make("cost term", "temporal", sigma_frames=sigma, max_gap_frames=limit)
    cost, apart = term.cost(*pair), term.forbids(*pair)
    for i in range(cost.shape[1]):
        for j in range(cost.shape[2]):
            gap = abs(float(pair[0].times[0, i] - pair[1].times[0, j]))
            wanted = 1 - math.exp(-(gap**2) / (2 * sigma**2))
            assert abs(float(cost[0, i, j]) - wanted) < 1e-5
            assert limit is None or bool(apart[0, i, j]) == (gap > limit)


def test_temporal_scales_near_frames_down_as_documented() -> None:
    here = TokenGroup(torch.zeros(1, 1), torch.zeros(1, 2), torch.zeros(1))
    later = TokenGroup(torch.zeros(3, 1), torch.zeros(3, 2), torch.tensor([1.0, 2.0, 3.0]))
    cost = make("cost term", "temporal").cost(later, here).flatten()
    assert [round(value, 2) for value in cost.tolist()] == [0.2, 0.59, 0.86]
