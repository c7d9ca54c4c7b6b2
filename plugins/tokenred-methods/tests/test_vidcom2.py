"""VidCom2: what is rare is kept, frames that stand out keep more, budgets are met."""

import math

import pytest
import torch
from tokenred_methods.vidcom2.commonness import CommonnessConfig, commonness
from tokenred_methods.vidcom2.rarity import RarityConfig, RaritySelector
from tokenred_methods.vidcom2.uniqueness import (
    UniquenessAllocator,
    UniquenessConfig,
    frame_factors,
)

from tokenred import VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens

SWAPS = {
    "selector": {"frame.selector": "uniform-grid"},
    "allocator": {"frame.allocator": "equal"},
    "merging": {"frame.coupler": "nearest", "frame.aggregator": "mean"},
    "transport": {
        "frame.coupler": {"name": "sinkhorn", "last": "source"},
        "frame.aggregator": "row-normalised",
    },
}


@parametrize_checks(RaritySelector(RarityConfig()))
def test_selector_contract(check):
    check()


@parametrize_checks(UniquenessAllocator(UniquenessConfig()))
def test_allocator_contract(check):
    check()


def odd_one_out(frame=2, place=5):
    """Return four still frames of eight tokens, one token of which points elsewhere."""
    features = torch.ones(4, 8, 4)
    features[..., 2:] += 100 * torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
    features[frame, place, 0] = -1.0
    return VisualTokens.of(features, (2, 4))


def test_the_odd_token_is_kept_and_its_frame_gets_more():
    tokens = odd_one_out()
    generator = torch.Generator()
    chosen = RaritySelector(RarityConfig()).select(tokens, 1, generator=generator)
    assert chosen[2].item() == 5
    factors = frame_factors(tokens, UniquenessConfig())
    assert factors.argmax() == 2
    assert factors.mean() == pytest.approx(1)


def test_channels_that_vary_much_do_not_count():
    steady = commonness(odd_one_out(), CommonnessConfig(channels=0.5))[0]
    noise = commonness(odd_one_out(), CommonnessConfig(channels=1.0))[0]
    others = torch.ones(4, 8, dtype=torch.bool)
    others[2, 5] = False
    assert steady[others].std() < 1e-4
    assert noise[others].std() > 0.1


def test_likeness_is_a_sum_of_gaussians():
    # Two tokens at right angles: each is at squared distance 1/2 from their mean.
    tokens = VisualTokens.of(torch.eye(2)[None], (1, 2))
    config = CommonnessConfig(channels=1.0, widths=(0.5, 2.0))
    in_video, in_frame = commonness(tokens, config)
    wanted = math.exp(-0.5) + math.exp(-0.125)
    assert in_video.tolist() == in_frame.tolist() == [[pytest.approx(wanted)] * 2]


def test_a_cold_softmax_gives_one_frame_nearly_its_double_share():
    tokens = odd_one_out()
    cold = UniquenessAllocator(UniquenessConfig(temperature=1e-4)).allocate(tokens, 4.0)
    assert cold.tolist() == pytest.approx([3, 3, 7, 3])
    hot = UniquenessAllocator(UniquenessConfig(temperature=100.0)).allocate(tokens, 4.0)
    assert hot.tolist() == pytest.approx([4, 4, 4, 4], abs=0.01)


def test_released_counts_stay_between_one_and_all():
    tokens = odd_one_out()
    allocator = UniquenessAllocator(UniquenessConfig(temperature=1e-4, released=True))
    assert allocator.allocate(tokens, 8.0).tolist() == pytest.approx([6, 6, 8, 6])
    assert allocator.allocate(tokens, 0.1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("ratio", [0.25, 0.20, 0.15, 0.10])
@pytest.mark.parametrize(("pool", "frames", "cells"), [("bilinear", 32, 196), ("average", 6, 169)])
def test_budgets_are_met_exactly(ratio, pool, frames, cells):
    tokens = video_tokens(frames, (27, 27), dim=8, native_pool=pool)
    reduced = load_pipeline("vidcom2", {"budget.retention_ratio": ratio}).run(tokens)
    assert reduced.realised.n_tokens == frames * math.ceil(round(cells * ratio, 9))
    assert len(set(reduced.realised.tokens_per_frame)) > 1


def test_a_budget_of_one_keeps_everything_unless_released():
    tokens = video_tokens(4, (4, 4), dim=16)
    whole = {"budget.retention_ratio": 1.0}
    assert load_pipeline("vidcom2", whole).run(tokens).realised.n_tokens == 64
    assert load_pipeline("vidcom2-released", whole).run(tokens).realised.n_tokens < 60


@pytest.mark.parametrize("swap", SWAPS)
def test_any_part_can_be_swapped(swap):
    tokens = video_tokens(6, (8, 8), dim=8)
    whole = load_pipeline("vidcom2", {"budget.retention_ratio": 0.2}).run(tokens)
    other = load_pipeline("vidcom2", {"budget.retention_ratio": 0.2, **SWAPS[swap]}).run(tokens)
    assert other.realised.n_tokens == whole.realised.n_tokens == 6 * 13
    assert not torch.equal(whole.features, other.features)


def test_uniqueness_divides_the_anchors_of_other_methods():
    tokens = odd_one_out()
    allocator = {"frame.allocator": {"name": "uniqueness", "temperature": 1e-4}}
    reduced = load_pipeline("random", {"budget.retention_ratio": 0.5, **allocator}).run(tokens)
    assert reduced.realised.tokens_per_frame == (3, 3, 7, 3)


@pytest.mark.parametrize("name", ["vidcom2", "vidcom2-released"])
@pytest.mark.parametrize("pool", ["none", "bilinear"])
def test_the_trace_explains_every_token(name, pool):
    tokens = video_tokens(6, (12, 12), dim=8, native_pool=pool)
    reduced = load_pipeline(name).run(tokens, trace=True)
    torch.testing.assert_close(
        reduced.trace @ tokens.features.flatten(0, 1), reduced.features, atol=1e-5, rtol=0
    )
