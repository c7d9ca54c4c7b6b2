"""Strategies inside the LLM of published methods."""

from dataclasses import replace

import pytest
import torch
from property.cases import make
from tokenred_methods.framefusion.reducer import dropped_share

from tests.ranked_cases import left, ranked, run
from tokenred import CapabilityError
from tokenred.kernels.clustering import density_peaks
from tokenred.testing import cache_states, layer_state, through_layers
from tokenred.testing.inside import with_attention


def test_the_rank_of_the_attention_is_how_many_stay() -> None:
    state = layer_state(3, (2, 3), after=4)
    one = torch.rand(len(state.hidden))
    state = replace(state, attention=lambda queries: one.expand(2, len(queries), -1))
    reducer = ranked({1: "adaptive"}, ranker="text-raters")
    reduction = reducer.reduce(state)
    assert len(reduction.source) == len(state.hidden) - 18 + 1  # all raters agree: rank one


def test_raters_are_chosen_once_and_found_again_when_tokens_have_gone() -> None:
    state = layer_state(3, (2, 3))
    reducer = ranked({1: 0.5, 2: 0.25}, ranker="text-raters")
    asked = []
    for seen, _ in through_layers(reducer, state):
        raters = reducer.ranker._raters(seen)
        asked.append(seen.origin[raters].tolist())
        assert (seen.clip[raters] == -1).all()
    assert asked[0] == asked[1] != []


def test_a_question_of_one_token_is_its_own_rater() -> None:
    state = layer_state(2, (2, 2), after=1)
    ranker = make("token ranker", "text-raters")
    assert ranker._raters(state).tolist() == [state.last]


def test_multimodal_positions_cannot_be_divided_away() -> None:
    state = replace(layer_state(), cos=None, sin=None)
    ranker = make("token ranker", "text-raters", divide_rotary=True)
    with pytest.raises(CapabilityError, match="multimodal rotary"):
        ranker.rank(state, state.visual.nonzero()[:, 0])


def test_without_positions_the_order_of_the_video_does_not_count() -> None:
    state = layer_state(3, (1, 2))
    ranker = make("token ranker", "position-free")
    candidates = state.visual.nonzero()[:, 0]
    turned = state.hidden.clone()
    turned[candidates] = state.hidden[candidates.flip(0)]
    scores = ranker.rank(state, candidates)
    moved = ranker.rank(with_attention(replace(state, hidden=turned)), candidates)
    torch.testing.assert_close(moved, scores.flip(0))


def test_folds_weigh_a_half_each_from_the_last() -> None:
    state = layer_state(1, (1, 2), before=1, after=1)
    hidden, scores = state.hidden, torch.arange(4).float()
    kept, made = make("layer merger", "fold").merge(
        state, torch.tensor([3]), torch.tensor([0, 1, 2]), scores
    )
    weights = torch.tensor([1 / 8, 1 / 4, 1 / 2, 1 / 8])
    torch.testing.assert_close(kept, (weights @ hidden)[None])
    assert len(made) == 0


def test_equally_dense_points_do_not_both_become_centres() -> None:
    pair = torch.tensor([[0.0, 0.0], [0.0, 0.1]])  # each other's nearest, so equally dense
    far = torch.tensor([[5.0, 0.0], [5.0, 0.2], [5.0, 0.4]])
    found = density_peaks(torch.cat([pair, far]), 2, 2)
    assert 0 in found.centres.tolist()  # the earlier of the two counts as denser
    assert found.label.tolist()[:2] == [0, 0]
    assert found.label.tolist()[2:] == [1, 1, 1]


def test_the_layers_see_the_cost_on_average() -> None:
    state = layer_state(8, (4, 4), n_layers=28, similar=0.6)
    reducer = make("layer reducer", "framefusion", cost=0.3, similarity=0.5)
    counts, current = [], 128
    for seen, reduction in through_layers(reducer, state):
        if reduction is not None:
            current = len(reduction.source) - 8
        if not counts or seen.layer != counts[-1][0]:
            counts.append((seen.layer, current))
        counts[-1] = (seen.layer, counts[-1][1])
    average = sum(count for _, count in counts) / 28 / 128
    assert abs(average - 0.3) < 0.02


@pytest.mark.parametrize(
    ("sparsity", "cost", "n_layers", "share"),
    [([], 0.3, 28, 0.7), ([], 1.0, 28, 0.0), ([0.0], 0.3, 3, 1.0), ([0.9], 0.5, 28, 0.0)],
)
def test_what_the_budget_leaves_to_drop(
    sparsity: list[float], cost: float, n_layers: int, share: float
) -> None:
    assert dropped_share(sparsity, cost, n_layers) == pytest.approx(share)


def test_a_still_video_becomes_its_first_frame() -> None:
    state = layer_state(4, (2, 2), similar=1.0, n_layers=4)
    reducer = make("layer reducer", "framefusion", cost=0.2)
    first = run(reducer, state)[0]
    frames, cells = left(state, first)
    # 80 % of 16 tokens may go; 12 are alike, and all of them join the first frame.
    assert (frames, cells) == ([0] * 4, [0, 1, 2, 3])
    assert first is not None
    assert first.hidden is not None
    torch.testing.assert_close(first.hidden, state.hidden[first.source])


def test_tokens_of_two_videos_do_not_join() -> None:
    state = layer_state(1, (2, 2), clips=2)
    state = replace(state, hidden=torch.ones_like(state.hidden))
    reducer = make("layer reducer", "framefusion")
    assert reducer.reduce(replace(state, layer=0)) is None


def test_an_unchanged_choice_is_used_again() -> None:
    states = cache_states(3, change=0.0)
    pruner = make("cache pruner", "dycoke", drop_ratio=0.7)
    kept = [pruner.prune(state).tolist() for state in states]
    assert all(len(chosen) == len(state.visual) - 7 for chosen, state in zip(kept, states))
    assert [set(kept[0]) <= set(chosen) for chosen in kept] == [True] * 3


def test_the_chosen_tokens_are_those_with_the_most_attention() -> None:
    (state,) = cache_states(1)
    kept = make("cache pruner", "dycoke", drop_ratio=0.7).prune(state)
    scores = state.attention.mean(0)
    inside = torch.isin(torch.arange(len(scores)), kept)
    assert scores[state.visual & inside].min() > scores[state.visual & ~inside].max()
