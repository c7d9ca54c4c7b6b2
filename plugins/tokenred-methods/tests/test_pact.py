import math

import pytest
import torch
from property.cases import make
from tokenred_methods.pact.reducer import ClusteredConfig, find_clusters

from tests.ranked_cases import ranked
from tokenred.testing import layer_state

KEEP = {"name": "ranked", "schedule": {1: 0.5}, "ranker": "key-query"}


def clusters(angles, n_kept, **settings):
    """Cluster points on a circle, given in degrees."""
    angle = torch.tensor(angles) * math.pi / 180
    keys = torch.stack([angle.cos(), angle.sin()], -1)
    return find_clusters(keys, n_kept, ClusteredConfig(keep=KEEP, **settings))


def test_dense_tokens_that_are_far_apart_are_centres():
    own, others = torch.eye(7)[:3], torch.eye(7)[3:]  # the middle of each of three groups
    near = 0.9 * own[:2].repeat_interleave(2, 0) + 0.3 * others
    keys = torch.cat([near[:1], own[:1], near[1:3], own[1:2], near[3:], own[2:]])
    found = find_clusters(keys, 7, ClusteredConfig(keep=KEEP, cutoff=0.08))
    assert found.centres.tolist() == [1, 4, 6]
    assert found.label.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_dropped_tokens_join_what_is_near():
    far = 1 - math.cos(math.pi / 6)  # of 30 degrees
    angles = [0.0, 90.0, 30.0, 45.0]
    taken = clusters(angles, 2, cutoff=far / 1.4, take_in=1.5)
    assert taken.label.tolist() == [0, 1, 0, -1]
    assert clusters(angles, 2, cutoff=far / 1.6, take_in=1.5).label.tolist() == [0, 1, -1, -1]


def test_means_and_sizes_are_those_of_the_clusters():
    state = layer_state(3, (2, 3), similar=0.9)
    reducer = make("layer reducer", "clustered", keep=KEEP, cutoff=2.0, take_in=1.0)
    reduction = reducer.reduce(state)
    (centre,) = state.visual[reduction.source].nonzero()[:, 0].tolist()
    mean = state.hidden[state.visual].mean(0)
    torch.testing.assert_close(reduction.hidden[centre], mean)
    text = ~state.visual[reduction.source]
    assert reduction.log_weight[centre] == pytest.approx(math.log(18))
    assert (reduction.log_weight[text] == 0).all()
    torch.testing.assert_close(reduction.hidden[text], state.hidden[~state.visual])


def test_without_taking_in_only_kept_tokens_count():
    state = layer_state(3, (2, 3))
    reducer = make("layer reducer", "clustered", keep=KEEP, cutoff=2.0, take_in=None)
    reduction = reducer.reduce(state)
    assert reduction.log_weight.max() == pytest.approx(math.log(9))


def test_a_reducer_that_keeps_everything_leaves_all_to_the_clusters():
    state = layer_state(3, (2, 3))
    keep = {**KEEP, "schedule": {1: 1.0}}
    reducer = make("layer reducer", "clustered", keep=keep, cutoff=2.0)
    assert int(state.visual[reducer.reduce(state).source].sum()) == 1


@pytest.mark.parametrize(("share", "left"), [(0.5, 9), (0.04, 17), (0.06, 1)])
def test_as_released_a_share_of_none_keeps_all_but_one(share, left):
    state = layer_state(3, (2, 3))
    reducer = ranked({1: "adaptive"}, ranker={"name": "key-query", "share": share})
    reduction = reducer.reduce(state)
    assert int(state.visual[reduction.source].sum()) == left


def test_half_weights_are_rounded():
    state = layer_state(3, (2, 3))
    whole, half = (
        make("layer reducer", "clustered", keep=KEEP, cutoff=2.0, half_weights=each)
        .reduce(state)
        .log_weight.max()
        for each in (False, True)
    )
    assert whole != half
    assert half == half.half().float()
