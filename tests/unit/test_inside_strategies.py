"""What works inside the LLM, on prompts whose right answer can be seen."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from property.cases import make

from tests.ranked_cases import by_frame, left, ranked, run
from tokenred import ConfigError, InputError
from tokenred.kernels.attention import attention_rows
from tokenred.kernels.clustering import cluster_means, density_peaks
from tokenred.strategies.depth import depth_key, layer_at
from tokenred.testing import layer_state

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
        (0.29, "floor", 28),  # 28.999999999999996 in binary, as in the released codes
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


# who


def test_another_layer_draws_other_random_ranks() -> None:
    state, ranker = layer_state(), make("token ranker", "random")
    candidates = state.visual.nonzero()[:, 0]
    drawn = [ranker.rank(replace(state, layer=layer), candidates) for layer in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# what becomes of the others


# FrameFusion


# DyCoke


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
