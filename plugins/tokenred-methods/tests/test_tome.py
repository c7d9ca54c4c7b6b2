import math

import pytest
import torch
from tokenred_methods.tome.cost import BipartiteCost
from tokenred_methods.tome.matching import match, match_every
from tokenred_methods.tome.merging import merge, merge_by_size, merge_source, unmerge
from tokenred_methods.tome.selector import BipartiteConfig, BipartiteSelector

from tokenred import CapabilityError, InputError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens
from tokenred.types import TokenGroup

SWAPS = {
    "selector": {"frame.selector": "random"},
    "selector of features": {"frame.selector.of": "features"},
    "cost": {"frame.cost": ["cosine"]},
    "coupler": {"frame.coupler": "sinkhorn"},
    "soft coupler": {"frame.coupler": {"name": "cosine", "temperature": 0.1}},
    "aggregator": {"frame.aggregator": "keep-only"},
    "aggregator of another": {"frame.aggregator": "centre-weighted"},
    "scope": {"frame.scope": "segment"},
}


@parametrize_checks(BipartiteSelector(BipartiteConfig()))
def test_selector_contract(check):
    check()


@parametrize_checks(BipartiteSelector(BipartiteConfig(of="keys@features")))
def test_selector_of_keys_contract(check):
    check()


@parametrize_checks(BipartiteCost())
def test_cost_contract(check):
    check()


def directions(*degrees):
    angle = torch.tensor([math.radians(value) for value in degrees])
    return torch.stack([angle.cos(), angle.sin()], -1)[None]


# Even tokens at 0, 50 and 100 degrees; odd ones at 20, 52 and 105: the matches are 20, 2, 5 apart.
LINE = directions(0, 20, 50, 52, 100, 105)


def test_the_best_matches_merge_and_the_rest_stands_in_the_released_order():
    one = match(LINE, 1)
    assert merge_source(None, one)[0].argmax(-1).tolist() == [4, 0, 1, 2, 5]
    assert one.target.tolist() == [[1, 2, 3, 3, 0, 4]]
    two = match(LINE, 2)
    assert two.target.tolist() == [[0, 1, 2, 2, 3, 3]]


def test_a_class_token_never_merges_and_comes_first():
    assert match(LINE, 1, class_token=True).target.tolist() == [[0, 2, 3, 3, 1, 4]]
    assert match(LINE, 9, class_token=True).target.tolist() == [[0, 1, 2, 2, 3, 3]]


def test_nothing_merges_into_a_distillation_token_which_comes_second():
    merged = match(LINE, 2, class_token=True, distill_token=True)
    assert merged.target.tolist() == [[0, 1, 2, 2, 3, 3]]
    one = match(LINE, 1, class_token=True, distill_token=True)
    assert one.target.tolist() == [[0, 1, 3, 3, 2, 4]]
    assert one.plain_target.tolist() == [[0, 2, 3, 3, 1, 4]]
    rows = torch.arange(5.0).view(1, 5, 1)
    assert unmerge(rows, one).flatten().tolist() == [0, 1, 3, 3, 2, 4]
    assert unmerge(rows, one, released=True).flatten().tolist() == [0, 2, 3, 3, 1, 4]


def test_at_most_half_of_the_tokens_merge_and_none_if_r_is_zero():
    assert match(LINE, 99).rows == 3
    assert match(LINE[:, :5], 99).rows == 3
    assert match(LINE[:, :1], 99).target.tolist() == [[0]]
    assert match(LINE, 0).target.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_merging_by_size_is_an_average_of_patches():
    values = torch.arange(6.0).view(1, 6, 1)
    size = torch.tensor([1.0, 1, 3, 1, 1, 1]).view(1, 6, 1)
    merged, total = merge_by_size(values, match(LINE, 2), size)
    assert total.flatten().tolist() == [1, 1, 4, 2]
    assert merged.flatten().tolist() == [0, 1, 2.25, 4.5]
    assert merge(values, match(LINE, 2), "mean").flatten().tolist() == [0, 1, 2.5, 4.5]
    assert merge(values, match(LINE, 2)).flatten().tolist() == [0, 1, 5, 9]


def test_every_kth_token_takes_in_the_others_and_a_remainder_vanishes():
    found = match_every(directions(0, 90, 10, 80, 170, 0), 2)
    assert found.rows == 3
    assert found.target.tolist() == [[2, 0, 2, 1, 0, 2]]
    short = match_every(directions(0, 20, 50, 52, 100), 2)
    assert short.target.tolist() == [[0, 0, 1, 1, -1]]
    assert unmerge(torch.ones(1, 2, 1), short).flatten().tolist() == [1, 1, 1, 1, 0]


def test_the_selector_works_on_what_is_open():
    tokens = VisualTokens.of(LINE.repeat(2, 1, 1), (2, 3))
    tokens.keep[1, 0] = False  # now 20, 52 and 105 degrees are even, 50 and 100 odd
    selector = BipartiteSelector(BipartiteConfig())
    chosen = selector.select(tokens, 4, generator=torch.Generator())
    assert chosen.tolist() == [[0, 1, 3, 5], [5, 1, 2, 4]]


def test_more_than_half_is_refused_by_name_of_the_way_out():
    tokens = VisualTokens.of(LINE, (2, 3))
    with pytest.raises(
        InputError, match=r"2 anchors asked for.*of the 6 tokens.*kind rounds-frame"
    ):
        BipartiteSelector(BipartiteConfig()).select(tokens, 2, generator=torch.Generator())
    whole = {"budget.retention_ratio": 0.3, "frame.kind": "frame"}
    video = video_tokens(2, (6, 6), needs={"keys@features"})
    with pytest.raises(InputError, match="stage 'frame'"):
        load_pipeline("tome", whole).run(video)


def test_a_missing_cue_is_named():
    tokens = VisualTokens.of(LINE, (2, 3))
    with pytest.raises(CapabilityError, match="keys@features"):
        BipartiteSelector(BipartiteConfig(of="keys@features")).select(
            tokens, 4, generator=torch.Generator()
        )


def test_even_sources_are_kept_from_even_anchors_only():
    def group(*rank):
        n = len(rank)
        return TokenGroup(
            torch.zeros(n, 1), torch.zeros(n, 2), torch.zeros(n), rank=torch.tensor(rank)
        )

    term = BipartiteCost()
    assert not term.cost(group(0, 3), group(1, 2)).any()
    assert term.forbids(group(0, 3), group(1, 2)).tolist() == [[False, True], [False, False]]
    uncounted = TokenGroup(torch.zeros(2, 1), torch.zeros(2, 2), torch.zeros(2))
    assert term.forbids(uncounted, uncounted) is None


@pytest.mark.parametrize("n", [36, 49])
def test_one_round_of_the_preset_is_one_matching(n):
    side = int(n**0.5)
    tokens = video_tokens(3, (side, side), needs={"keys@features"}, dim=8)
    settings = {"frame.n_anchors": n - n // 3, "frame.order": "selection"}
    as_it_is = {"budget": {"mode": "as-released", "retention_ratio": 1.0}}
    reduced = load_pipeline("tome", {**as_it_is, **settings}).run(tokens)
    matching = match(tokens.cues["keys@features"], n // 3)
    merged, size = merge_by_size(tokens.features, matching)
    torch.testing.assert_close(reduced.features, merged.flatten(0, 1))
    assert torch.equal(reduced.mass, size.flatten())


def test_after_any_number_of_rounds_a_token_is_the_plain_mean_of_what_it_took_in():
    tokens = video_tokens(3, (9, 9), needs={"keys@features"}, dim=8)
    reduced = load_pipeline("tome", {"budget.retention_ratio": 0.06}).run(tokens, trace=True)
    trace = reduced.trace.to_dense()
    assert reduced.realised.n_tokens == 15
    assert torch.equal((trace > 0).sum(0), torch.ones(3 * 81))
    torch.testing.assert_close((trace > 0).sum(1).float(), reduced.mass)
    torch.testing.assert_close(trace, (trace > 0) / reduced.mass[:, None])


def test_keys_merge_with_the_tokens():
    """Two rounds on frames whose keys are their features, beside two rounds done by hand."""
    tokens = video_tokens(2, (4, 8), dim=6)
    tokens = VisualTokens.of(tokens.features, (4, 8), cues={"keys@features": tokens.features})
    by_features = {"frame.selector.of": "features", "frame.cost.0.of": "features"}
    quarter = {"budget.retention_ratio": 0.25}
    by_keys = load_pipeline("tome", quarter).run(tokens)
    plain = load_pipeline("tome", {**quarter, **by_features}).run(tokens)
    assert torch.equal(by_keys.features, plain.features)


@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize(("pool", "frames", "cells"), [("bilinear", 32, 196), ("average", 4, 169)])
def test_budgets_are_met_in_every_frame(ratio, pool, frames, cells):
    tokens = video_tokens(frames, (27, 27), needs={"keys@features"}, dim=8, native_pool=pool)
    reduced = load_pipeline("tome", {"budget.retention_ratio": ratio}).run(tokens)
    quota = math.ceil(round(cells * ratio, 9))
    assert reduced.realised.tokens_per_frame == (quota,) * frames
    torch.testing.assert_close(reduced.mass.sum(), torch.tensor(float(frames * cells)))


@pytest.mark.parametrize("swap", SWAPS)
def test_any_part_can_be_swapped(swap):
    pipeline = load_pipeline("tome", {"budget.retention_ratio": 0.2, **SWAPS[swap]})
    tokens = video_tokens(4, (8, 8), needs={"keys@features", *pipeline.needs}, dim=8)
    whole = load_pipeline("tome", {"budget.retention_ratio": 0.2}).run(tokens)
    other = pipeline.run(tokens)
    assert other.realised.n_tokens == whole.realised.n_tokens == 4 * 13
    assert not torch.equal(whole.features, other.features)


def test_the_matching_serves_a_transport_of_others():
    tokens = video_tokens(4, (12, 12), needs={"attention@-2", "attention@0.2"}, dim=8)
    mine = {
        "stages.intra_frame.selector": "bipartite",
        "stages.intra_frame.n_anchors": 0.3,
        "stages.intra_frame.kind": "rounds-frame",
    }
    reduced = load_pipeline("aot-paper", {"budget.retention_ratio": 0.15, **mine}).run(tokens)
    assert reduced.realised.n_tokens == 4 * 22


@pytest.mark.parametrize("pool", ["none", "bilinear"])
def test_the_trace_explains_every_token(pool):
    tokens = video_tokens(4, (12, 12), needs={"keys@features"}, dim=8, native_pool=pool)
    reduced = load_pipeline("tome").run(tokens, trace=True)
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )
