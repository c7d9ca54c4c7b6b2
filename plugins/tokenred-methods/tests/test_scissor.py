import math

import pytest
import torch
from profiles import combinations
from tokenred_methods.scissor import graph
from tokenred_methods.scissor.components import ComponentsConfig, ComponentsGrouper, two_passes
from tokenred_methods.scissor.connected import connected_components
from tokenred_methods.scissor.graph import components, neighbours, sample_size
from tokenred_methods.scissor.union_find import union_find

from tokenred import BudgetError, ConfigError, VisualTokens, calibrate, load_pipeline, registry
from tokenred.pipeline import load_config
from tokenred.testing import parametrize_checks, video_tokens

FIXED = {"budget": {"mode": "as-released", "retention_ratio": 0.1}}
LAYOUTS = [("bilinear", 8, 196), ("average", 4, 169)]
RATIOS = [0.25, 0.20, 0.15, 0.10]


def grouper(**settings):
    return ComponentsGrouper(ComponentsConfig(**settings))


@parametrize_checks(grouper(tau=0.5))
def test_contract(check):
    check()


@parametrize_checks(grouper(tau=0.5, epsilon=1.0))
def test_contract_with_few_samples(check):
    check()


@parametrize_checks(grouper(tau=0.5, epsilon=1.0, released=True))
def test_contract_of_the_release(check):
    check()


def directions(*degrees):
    angle = torch.tensor([math.radians(value) for value in degrees])
    return torch.stack([angle.cos(), angle.sin()], -1)


NEAR = math.cos(math.radians(11))
"""Linked are directions that are less than 11 degrees apart."""


def test_components_are_chains_of_similar_nodes():
    found = components(directions(0, 90, 10, 100, 20, 200), NEAR, None)
    assert found.label.tolist() == [1, 0, 1, 0, 1, 2]
    assert found.head.tolist() == [1, 2, 5]  # most neighbours; of 90 and 100 degrees the first


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_the_smallest_nodes_of_components(seed):
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, 40, (2, 30), generator=generator)
    label = connected_components(40, edges)
    reach = torch.eye(40, dtype=torch.long)
    reach[edges[0], edges[1]] = reach[edges[1], edges[0]] = 1
    for _ in range(6):
        reach = (reach @ reach > 0).long()
    assert torch.equal(label, reach.argmax(-1))


def test_a_long_chain_is_one_component():
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert not connected_components(500, torch.stack([order[:-1], order[1:]])).any()
    assert connected_components(3, torch.zeros(2, 0, dtype=torch.long)).tolist() == [0, 1, 2]


def test_links_are_the_same_in_pieces(monkeypatch):
    features = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    whole = neighbours(features, 0.7)
    monkeypatch.setattr(graph, "CHUNK", 7)
    assert torch.equal(neighbours(features, 0.7), whole)
    assert neighbours(features, 1.5).tolist() == [list(range(30))] * 2


def test_the_sample_is_the_logarithm_over_epsilon_squared():
    assert sample_size(49, 0.5) == 16
    assert sample_size(49, 0.05) == 49
    assert sample_size(3233, 0.05) == 3233
    assert sample_size(3234, 0.05) == 3233
    assert sample_size(1, 0.5) == 0


def test_only_links_of_sampled_nodes_count():
    features = directions(0, 10, 20, 30, 90)
    assert components(features, NEAR, torch.tensor([1])).label.tolist() == [0, 0, 0, 1, 2]
    assert components(features, NEAR, torch.tensor([0, 3])).label.tolist() == [0, 0, 1, 1, 2]
    none = components(features, NEAR, torch.zeros(0, dtype=torch.long))
    assert none.label.tolist() == [0, 1, 2, 3, 4]


def test_the_release_leaves_out_what_hangs_deep():
    """Two pairs are joined by their second members; then the second pair's is two steps down."""
    edges = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1], [2, 3], [3, 2]]).mT
    edges = edges[:, edges[0].argsort(stable=True)]
    assert union_find(4, edges, torch.tensor([0, 3, 1])).tolist() == [0, 0, -1, 0]
    assert union_find(4, edges, torch.tensor([1])).tolist() == [1, 1, 1, 3]
    assert connected_components(4, edges).tolist() == [0, 0, 0, 0]


def test_in_the_end_every_token_joins_the_component_it_resembles():
    """A chain from 0 to 40 degrees has its mean at 20; at 52 stands one alone, nearer to 40."""
    tokens = VisualTokens.of(directions(0, 10, 20, 30, 40, 52)[None], (2, 3))
    found = two_passes(tokens.features[0], [6], ComponentsConfig(tau=NEAR), lambda *_: None)
    assert found.spatial.label.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.nearest.tolist() == [0, 0, 0, 0, 1, 1]
    grouping = grouper(tau=NEAR).group(tokens, generator=torch.Generator())
    weights = grouping.map.to_dense()
    assert grouping.head.tolist() == [1, 5]
    # The mean of five and the four that joined it; the lonely one, itself again and its neighbour.
    assert weights[0].tolist() == pytest.approx([(0.2 + 1) / 5] * 4 + [0.2 / 5, 0])
    assert weights[1].tolist() == pytest.approx([0] * 4 + [1 / 3, 2 / 3])


def test_components_of_frames_are_joined_across_the_video():
    tokens = VisualTokens.of(directions(0, 90, 5, 95, 0, 180).view(3, 2, 2), (1, 2))
    found = two_passes(
        tokens.features.flatten(0, 1), [2, 2, 2], ComponentsConfig(tau=NEAR), lambda *_: None
    )
    assert found.spatial.label.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.overall.label.tolist() == [0, 1, 0, 1, 0, 2]
    grouping = grouper(tau=NEAR).group(tokens, generator=torch.Generator())
    assert grouping.head.tolist() == [0, 1, 5]


def test_dropped_tokens_connect_nothing():
    tokens = VisualTokens.of(directions(0, 10, 20)[None], (1, 3))
    assert len(grouper(tau=NEAR).group(tokens, generator=torch.Generator()).head) == 1
    tokens.keep[0, 1] = False
    grouping = grouper(tau=NEAR).group(tokens, generator=torch.Generator())
    assert grouping.head.tolist() == [0, 2]
    assert grouping.map.to_dense()[:, 1].tolist() == [0, 0]


def test_samples_can_be_given_and_come_from_the_generator_otherwise():
    tokens = video_tokens(2, (6, 6), dim=4, similar=0.8)
    mine = grouper(tau=0.8, epsilon=1.0)

    def found(seed):
        return mine.group(tokens, generator=torch.Generator().manual_seed(seed))

    drawn, again = found(3), torch.Generator().manual_seed(3)

    def sample(n, size):
        return torch.randperm(n, generator=again)[:size]

    passes = two_passes(tokens.features.flatten(0, 1), [36, 36], mine.config, sample)
    again.manual_seed(3)
    sizes = [36, 36, len(passes.spatial.head)]
    mine.samples = [sample(n, sample_size(n, 1.0)) for n in sizes]
    given = found(99)
    assert mine.samples == []
    assert torch.equal(drawn.head, given.head)
    assert torch.equal(drawn.map.to_dense(), given.map.to_dense())
    mine.samples = None
    assert not torch.equal(drawn.head, found(99).head)


@pytest.mark.parametrize(("ratio", "layout"), combinations(RATIOS, LAYOUTS))
def test_the_threshold_is_calibrated_to_the_budget(ratio, layout):
    pool, frames, _ = layout
    video = {"grid": (27, 27), "dim": 8, "native_pool": pool, "similar": 0.6}
    held_out = [video_tokens(frames, **video, seed=seed) for seed in (1, 2)]
    config = load_config("scissor", {"budget.retention_ratio": ratio})
    found = calibrate(config, held_out, n_steps=12)
    reached = [load_pipeline(found).run(tokens).realised.retention_ratio for tokens in held_out]
    assert sum(reached) / 2 == pytest.approx(ratio, abs=0.01)


def exactly(ratio, grouping, **rest):
    budget = {"mode": "exact", "retention_ratio": ratio}
    frame = {
        "kind": "frame",
        "n_anchors": "budget",
        "selector": "random",
        "coupler": "nearest",
        "aggregator": "mean",
        **rest,
    }
    changes = {"budget": budget, "stages.group.grouper": grouping, "stages.rest": frame}
    return load_pipeline("scissor", changes)


@pytest.mark.parametrize(
    ("ratio", "layout"), combinations(RATIOS, [("bilinear", 32, 196), LAYOUTS[1]])
)
def test_a_frame_stage_behind_it_meets_the_budget_exactly(ratio, layout):
    pool, frames, cells = layout
    tokens = video_tokens(frames, (27, 27), dim=8, native_pool=pool, similar=0.5)
    reduced = exactly(ratio, {"name": "components", "tau": 0.93}).run(tokens)
    assert reduced.realised.stages[1].n_tokens > reduced.realised.n_tokens
    assert reduced.realised.n_tokens == frames * math.ceil(round(cells * ratio, 9))


def test_on_its_own_it_says_why_there_is_no_exact_budget():
    with pytest.raises(ConfigError, match=r"stages.group: .*budget.mode: calibrated"):
        load_pipeline("scissor", {"budget": {"mode": "exact", "retention_ratio": 0.2}})
    tokens = [video_tokens(4, (4, 4), dim=8)]
    with pytest.raises(BudgetError, match=r"nearest retention_ratio 0\.0156"):
        calibrate(load_config("scissor", {"budget.retention_ratio": 0.001}), tokens)


SWAPS = {
    "aggregator": {"aggregator": "keep-only"},
    "coupler": {"coupler": "sinkhorn", "aggregator": "mass-normalised"},
    "selector": {"selector": "uniform-grid"},
}


@pytest.mark.parametrize("swap", SWAPS)
def test_any_part_behind_it_can_be_swapped(swap):
    tokens = video_tokens(6, (8, 8), dim=8, similar=0.5)
    plain = exactly(0.2, "components").run(tokens)
    other = exactly(0.2, "components", **SWAPS[swap]).run(tokens)
    assert plain.realised.n_tokens == other.realised.n_tokens == 6 * 13
    assert not torch.equal(plain.features, other.features)


@pytest.mark.parametrize("name", registry().names("token grouper"))
def test_any_grouper_can_take_its_place(name):
    tokens = video_tokens(6, (8, 8), dim=8, similar=0.5)
    assert exactly(0.2, name).run(tokens).realised.n_tokens == 6 * 13


@pytest.mark.parametrize("name", ["scissor", "scissor-released"])
@pytest.mark.parametrize("pool", ["none", "bilinear"])
def test_the_trace_explains_every_token(name, pool):
    tokens = video_tokens(6, (12, 12), dim=8, native_pool=pool, similar=0.5)
    settings = {**FIXED, "stages.group.grouper.tau": 0.8, "stages.group.grouper.epsilon": 0.8}
    reduced = load_pipeline(name, settings).run(tokens, trace=True)
    assert 6 < reduced.realised.n_tokens < 6 * (144 if pool == "none" else 36)
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )


def test_a_component_stands_for_what_its_tokens_stood_for():
    merging = {"kind": "frame", "n_anchors": 2, "selector": "uniform-grid"}
    merging |= {"coupler": "nearest", "aggregator": "mean"}
    group = {"kind": "group", "grouper": {"name": "components", "tau": -1.0}}
    stages = {"merge": merging, "group": group}
    reduced = load_pipeline({"budget": {"mode": "as-released"}, "stages": stages}).run(
        video_tokens(frames=3, grid=(3, 4))
    )
    assert reduced.mass.tolist() == [3 * 12]
