import pytest
import torch
from tokenred_methods.dycoke.dyadic import DyadicConfig, DyadicReference

from tokenred import VisualTokens, load_pipeline
from tokenred.errors import BudgetError, ConfigError, InputError
from tokenred.testing import parametrize_checks, video_tokens

BILINEAR, AVERAGE = ("bilinear", 196), ("average", 169)
LAYOUTS = pytest.mark.parametrize(("pool", "cells"), [BILINEAR, AVERAGE])


@parametrize_checks(DyadicReference(DyadicConfig()))
def test_contract(check):
    check()


@parametrize_checks(DyadicReference(DyadicConfig(released=True)))
def test_contract_released(check):
    check()


def references(n_frames, released=False):
    return DyadicReference(DyadicConfig(released=released)).references(n_frames)


def video(frames=32, pool="bilinear", seed=0):
    return video_tokens(frames, (27, 27), seed=seed, dim=8, native_pool=pool)


def loaded(preset, ratio, **changes):
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return load_pipeline(preset, {"budget.retention_ratio": ratio, **overrides})


# --- which frame is compared with which ----------------------------------------------------------


def test_groups_of_four():
    assert references(4) == [0, 0, 0, 2]
    assert references(8) == [0, 0, 0, 2, 0, 4, 4, 6]
    assert [references(n) for n in (1, 2, 3)] == [[0], [0, 0], [0, 0, 0]]


def test_released_groups():
    assert references(8, released=True) == [0, 0, 0, 2, 4, 4, 6, 6]
    assert references(6, released=True) == [0, 0, 0, 2, 4, 4]
    assert references(5, released=True) == [0, 0, 0, 2, None]
    # Seven: frame 4 begins at 4 >= 7 - 4, so frame 6 would stay whole; but it is lost.
    assert references(7, released=True) == [0, 0, 0, 2, 4, 4, None]
    for few in range(1, 5):
        with pytest.raises(InputError, match="more than 4 frames"):
            references(few, released=True)


# --- what is kept --------------------------------------------------------------------------------


def still(frames, changed):
    """A film of one scene in which some places of some frames are something else."""
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(9, 6, generator=generator)
    features = scene.repeat(frames, 1, 1)
    for frame, place in changed:
        features[frame, place] = -scene[place]
    return VisualTokens.of(features, (3, 3))


def kept_places(reduced, frame):
    return reduced.token_index[reduced.frame_index == frame].tolist()


def test_what_changed_stays():
    changed = [(1, 4), (1, 7), (2, 0), (2, 8), (3, 3), (3, 5)]
    reduced = loaded("dycoke-ttm", 4 / 9).run(still(4, changed))  # 16 tokens: 9 + 2 + 2 + 3
    assert kept_places(reduced, 0) == list(range(9))
    assert kept_places(reduced, 1) == [0, 4, 7]  # a third one, for frames differ in what is left
    assert kept_places(reduced, 2) == [0, 8]
    # Frame 3 is compared with frame 2: where that one changed, it changed back.
    assert set(kept_places(reduced, 3)) < {0, 3, 5, 8}


def test_frames_are_compared_before_anything_is_dropped():
    """Frame 3 has the very change of frame 2, which loses it; it is no news in frame 3 either."""
    reduced = loaded("dycoke-released", 1.0, drop__keep__decide__drop_ratio=1.0).run(
        still(8, [(2, 4), (3, 4)])
    )
    assert reduced.realised.tokens_per_frame == (9, 0, 0, 0, 9, 0, 9, 0)


def test_released_order_is_by_similarity():
    tokens = video(8)
    sane = load_pipeline("dycoke-released", {"drop.order": "raster"}).run(tokens)
    released = load_pipeline("dycoke-released").run(tokens)
    for frame in range(8):
        here, there = (kept_places(each, frame) for each in (sane, released))
        assert here == sorted(there)
        assert (here == there) == (frame in (0, 4, 6))


def test_dropped_share_is_that_of_the_release():
    reduced = load_pipeline("dycoke-released").run(video())
    assert reduced.realised.n_tokens == 3098
    floor = load_pipeline("dycoke-released", {"drop.keep.decide.drop_ratio": 1.0}).run(video())
    assert floor.realised.n_tokens == 1764
    assert floor.realised.retention_ratio == pytest.approx(0.28125)


def test_an_odd_last_frame_is_lost_as_released_only():
    tokens = video(9)
    released = load_pipeline("dycoke-released").run(tokens)
    assert released.realised.tokens_per_frame[-1] == 0
    assert loaded("dycoke-ttm", 0.5).run(tokens).realised.tokens_per_frame[-1] > 0


def test_few_frames():
    with pytest.raises(InputError, match="stage 'drop': DyCoke's release needs more than 4"):
        load_pipeline("dycoke-released").run(video(4))
    for frames in (1, 2, 3, 4):
        share = max(0.475, 1 / frames)
        assert loaded("dycoke-ttm", share).run(video(frames)).realised.n_tokens > 0


# --- budgets -------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("preset", ["dycoke", "dycoke-ttm"])
@pytest.mark.parametrize("frames", [8, 32])
def test_a_quarter_is_exact(preset, frames, pool, cells):
    reduced = loaded(preset, 0.25).run(video(frames, pool))
    assert reduced.realised.n_tokens == -(-cells // 4) * frames


@LAYOUTS
@pytest.mark.parametrize("preset", ["dycoke", "dycoke-ttm"])
@pytest.mark.parametrize("ratio", [0.20, 0.15, 0.10])
def test_less_is_refused_by_name_of_the_floor(preset, ratio, pool, cells):
    least = rf"at least {8 * cells} tokens are possible here; nearest retention_ratio 0\.25"
    with pytest.raises(BudgetError, match=least):
        loaded(preset, ratio).run(video(32, pool))


@LAYOUTS
@pytest.mark.parametrize(("frames", "ratio"), [(8, 0.15), (16, 0.10), (32, 0.20)])
def test_longer_segments_reach_lower(frames, ratio, pool, cells):
    pipeline = loaded("dycoke-ttm", ratio, groups__segmenter__segment_frames=frames)
    assert pipeline.run(video(32, pool)).realised.n_tokens == -int(-cells * ratio // 1) * 32


def test_released_settings_have_no_exact_budget():
    with pytest.raises(ConfigError, match=r"exact budget needs keep\.decide: count"):
        load_pipeline("dycoke-released", {"budget.mode": "exact"})


@pytest.mark.parametrize("frames", [2, 5, 7])
def test_any_number_of_frames(frames):
    reduced = loaded("dycoke-ttm", 0.6).run(video(frames))
    assert reduced.realised.n_tokens == 118 * frames


# --- parts are exchanged -------------------------------------------------------------------------

SWAPS = {
    "coupler": {"drop.cost": ["cosine"], "drop.coupler": "sinkhorn"},
    "aggregator": {"drop.aggregator": "mean"},
    "segmenter": {"groups.segmenter": {"name": "dynamic", "min_segments": 4}},
    "reference": {"drop.reference": "previous"},
    "score": {
        "drop.cost": ["cosine"],
        "drop.coupler": "sinkhorn",
        "drop.keep.score": "max-probability",
    },
    "cost": {"drop.cost": ["cosine"]},
}


@pytest.mark.parametrize("preset", ["dycoke", "dycoke-ttm"])
@pytest.mark.parametrize("swap", SWAPS)
def test_a_part_for_anothers(preset, swap):
    tokens = video(8)
    plain = loaded(preset, 0.6).run(tokens)
    swapped = load_pipeline(preset, {"budget.retention_ratio": 0.6, **SWAPS[swap]}).run(tokens)
    assert swapped.realised.n_tokens == plain.realised.n_tokens == 118 * 8
    same = torch.equal(plain.token_index, swapped.token_index)
    assert not (same and torch.equal(plain.features, swapped.features))


def test_a_selector_in_front():
    selector = {"kind": "frame", "n_anchors": 0.5, "selector": {"name": "uniform-grid"}}
    data = load_pipeline("dycoke-ttm").config.to_dict()
    stages = {"pool": data["stages"]["pool"], "select": selector, **data["stages"]}
    reduced = load_pipeline({**data, "budget": {"retention_ratio": 0.25}, "stages": stages}).run(
        video(8)
    )
    assert reduced.realised.n_tokens == 49 * 8


@pytest.mark.parametrize("aggregator", ["keep-only", "mean"])
@pytest.mark.parametrize("preset", ["dycoke-ttm", "dycoke-released"])
def test_the_trace_is_the_map(preset, aggregator):
    tokens = video(8)
    reduced = load_pipeline(preset, {"drop.aggregator": aggregator}).run(tokens, trace=True)
    mapped = reduced.trace @ tokens.features.flatten(0, 1)
    assert torch.allclose(mapped, reduced.features, atol=1e-5)


def test_the_cache_comes_along():
    assert load_pipeline("dycoke").inside_llm.pruners
    assert load_pipeline("dycoke-released").inside_llm.pruners
    assert not load_pipeline("dycoke-ttm").inside_llm
