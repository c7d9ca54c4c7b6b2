"""What works inside the LLM, on prompts whose right answer can be seen."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from property.cases import make
from torch import Tensor

from tokenred import CapabilityError, ConfigError, InputError
from tokenred.kernels.attention import attention_rows
from tokenred.kernels.clustering import cluster_means, density_peaks
from tokenred.strategies._depth import depth_key, layer_at
from tokenred.strategies.layer_reducers.framefusion import dropped_share
from tokenred.testing import cache_states, layer_state, through_layers
from tokenred.testing.inside import with_attention
from tokenred.types import LayerReduction, LayerState


def ranked(schedule: Any, **settings: Any) -> Any:
    return make("layer reducer", "ranked", schedule=schedule, **settings)


def by_frame(state: LayerState, candidates: Tensor) -> Tensor:
    """Rank the tokens of later frames first, in a frame those of larger index."""
    return (state.frame_index * 100 + state.token_index)[candidates].float()


def run(reducer: Any, state: LayerState) -> list[LayerReduction | None]:
    return [reduction for _, reduction in through_layers(reducer, state)]


def left(state: LayerState, reduction: LayerReduction | None) -> tuple[list[int], list[int]]:
    """Return frame and place of the visual tokens that are left."""
    assert reduction is not None
    source = reduction.source[reduction.source >= 0]
    visual = source[state.visual[source]]
    return state.frame_index[visual].tolist(), state.token_index[visual].tolist()


# where


@pytest.mark.parametrize(
    ("depth", "n_layers", "layer"),
    [(2, 28, 2), (0, 3, 0), (0.08, 28, 2), (0.08, 32, 2), (0.08, 3, 1), (0.99, 2, 1), (0.5, 5, 2)],
)
def test_a_share_of_the_depth_rounds_down_but_not_to_the_first_layer(
    depth: float, n_layers: int, layer: int
) -> None:
    assert layer_at(depth, n_layers) == layer


def test_a_layer_may_be_written_as_text() -> None:
    assert [depth_key("2"), depth_key("0.25"), depth_key(".5")] == [2, 0.25, 0.5]
    assert isinstance(depth_key("2"), int)


@pytest.mark.parametrize("layer", ["-1", -1, 1.0, 1.5, 0.0, "x", "1.5", True, None])
def test_what_is_no_layer_is_refused(layer: object) -> None:
    with pytest.raises(ConfigError, match="a layer is an index"):
        depth_key(layer)


def test_the_last_of_the_shares_that_fall_on_one_layer_holds() -> None:
    reducer = ranked({0.75: 0.125, 0.25: 0.5, 0.5: 0.25})
    assert [step.layer for step in reducer.steps(32)] == [8, 16, 24]
    assert [step.layer for step in reducer.steps(3)] == [1, 2]
    (first, second) = run(reducer, layer_state(4, (2, 4), n_layers=3))
    assert first is not None
    assert second is not None
    assert len(first.source) - 8 == 8  # a quarter of 32
    assert len(second.source) - 8 == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": {}}, "a schedule maps"),
        ({"schedule": {2: "x/y"}}, "is no share"),
        ({"schedule": {2: 1.5}}, "a count, a share"),
        ({"schedule": {2: -1}}, "a count, a share"),
        ({"schedule": {2: True}}, "a count, a share"),
        ({"schedule": {2: "adaptive"}}, "does not know how many"),
        ({"schedule": {0: 0.5}}, "no attention yet"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("layer reducer", "ranked", **settings)


def test_a_layer_that_the_llm_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match=r"schedule: there is no layer 18 in an LLM of 4 layers"):
        ranked({18: 0.5}).steps(4)


# how many


@pytest.mark.parametrize(
    ("amount", "rounding", "kept"),
    [
        (0.29, "floor", 29),  # 28.999999999999996 in binary
        (0.285, "floor", 28),
        (0.285, "round", 28),
        (0.295, "round", 30),
        (0.281, "ceil", 29),
        ("30/100", "floor", 30),
        (7, "floor", 7),
        (700, "floor", 100),
        (0.0, "floor", 0),
    ],
)
def test_amounts(amount: Any, rounding: str, kept: int) -> None:
    state = layer_state(4, (5, 5))
    (reduction,) = run(ranked({1: amount}, rounding=rounding), state)
    count = 100 if reduction is None else len(reduction.source) - (len(state.hidden) - 100)
    assert count == kept


def test_shares_refer_to_what_entered() -> None:
    reducer = ranked({1: 0.5, 2: 0.25})
    lengths = [len(done.source) - 8 for done in run(reducer, layer_state(4, (2, 4))) if done]
    assert lengths == [16, 8]


def test_a_quota_of_each_group() -> None:
    state = layer_state(3, (2, 3))
    reducer = ranked({1: 0.34}, quota="group", rounding="floor")
    reducer.ranker.rank = by_frame
    assert left(state, *run(reducer, state)) == ([0, 0, 1, 1, 2, 2], [4, 5] * 3)
    reducer = ranked({1: 0.34}, rounding="floor")
    reducer.ranker.rank = by_frame
    assert left(state, *run(reducer, state)) == ([2] * 6, list(range(6)))


def test_of_equal_scores_the_earlier_stays() -> None:
    state = layer_state(2, (1, 3))
    reducer = ranked({1: 2})
    reducer.ranker.rank = lambda state, candidates: torch.zeros(len(candidates))
    assert left(state, *run(reducer, state)) == ([0, 0], [0, 1])


@pytest.mark.parametrize(("newlines", "n_visual"), [("keep", 6), ("rank", 4)])
def test_newline_tokens_stay_unless_they_are_ranked(newlines: str, n_visual: int) -> None:
    state = layer_state(4, (1, 3), newlines="row")
    reducer = ranked({1: 0.5}, newlines=newlines)
    reducer.ranker.rank = lambda state, c: state.newline[c].float() - c / 1000
    (reduction,) = run(reducer, state)
    assert reduction is not None
    assert int(state.newline[reduction.source].sum()) == 4
    assert int(state.visual[reduction.source].sum()) == n_visual


def test_videos_are_ranked_together_and_merged_apart() -> None:
    state = layer_state(2, (1, 2), clips=2)
    hidden = torch.zeros_like(state.hidden)
    hidden[:, 0] = 1  # all alike ...
    hidden[:, 1] = state.clip.float()  # ... but for what tells the videos apart
    state = replace(state, hidden=hidden)
    reducer = ranked({1: 2}, merger="fold")
    reducer.ranker.rank = lambda state, c: (state.token_index == 0)[c] & (state.frame_index == 0)[c]
    reduction = reducer.reduce(state)
    assert int(state.visual[reduction.source].sum()) == 2
    torch.testing.assert_close(reduction.hidden, hidden[reduction.source])


def test_made_tokens_stand_behind_the_visual_tokens_of_their_video() -> None:
    state = layer_state(2, (2, 3), clips=2, newlines="end")
    (reduction,) = run(ranked({1: 4}, merger="recycle"), state)
    assert reduction is not None
    for clip in range(2):
        last_visual = int((state.visual & (state.clip == clip)).nonzero().max())
        at = int((reduction.source > last_visual).nonzero()[0])
        assert reduction.source[at - 1] == -1
        assert bool(state.newline[reduction.source[at]])


def test_the_rank_of_the_attention_is_how_many_stay() -> None:
    state = layer_state(3, (2, 3), after=4)
    one = torch.rand(len(state.hidden))
    state = replace(state, attention=lambda queries: one.expand(2, len(queries), -1))
    reducer = ranked({1: "adaptive"}, ranker="text-raters")
    reduction = reducer.reduce(state)
    assert len(reduction.source) == len(state.hidden) - 18 + 1  # all raters agree: rank one


# who


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


def test_another_layer_draws_other_random_ranks() -> None:
    state, ranker = layer_state(), make("token ranker", "random")
    candidates = state.visual.nonzero()[:, 0]
    drawn = [ranker.rank(replace(state, layer=layer), candidates) for layer in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# what becomes of the others


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


# FrameFusion


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


# DyCoke


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


# kernels


def test_attention_rows_are_those_of_the_whole_map() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(n, 7, 4, generator=generator) for n in (4, 2))
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    whole = torch.stack(
        [
            ((query[head] @ key[head // 2].T) / 2).masked_fill(~causal, -torch.inf).softmax(-1)
            for head in range(4)
        ]
    )
    rows = attention_rows(query[:, [2, 6]], key, visible=causal[[2, 6]])
    torch.testing.assert_close(rows, whole[:, [2, 6]])


def test_clusters_that_lie_apart_are_found() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = 10 * torch.randn(3, 5, generator=generator)
    points = centre.repeat_interleave(6, 0) + 0.1 * torch.randn(18, 5, generator=generator)
    found = density_peaks(points, 3, 4)
    groups = found.label.view(3, 6)
    assert (groups == groups[:, :1]).all()
    assert groups[:, 0].unique().numel() == 3
    means = cluster_means(points, found.label, 3)
    torch.testing.assert_close(means[groups[:, 0]], points.view(3, 6, 5).mean(1))


@pytest.mark.parametrize(("n_clusters", "neighbours"), [(6, 2), (2, 6), (0, 0)])
def test_too_few_points_are_refused(n_clusters: int, neighbours: int) -> None:
    with pytest.raises(InputError, match="5 points do not make"):
        density_peaks(torch.randn(5, 3), n_clusters, neighbours)
