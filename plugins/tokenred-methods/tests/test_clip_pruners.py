import math
from dataclasses import replace

import pytest
import torch
from tokenred_methods.clip_pruners.dpp import DppConfig, DppSelector
from tokenred_methods.clip_pruners.duplicate_removal import (
    DuplicateRemovalConfig,
    DuplicateRemovalSelector,
)
from tokenred_methods.clip_pruners.relevance import clip_relevance
from tokenred_methods.clip_pruners.tile_attention import TileAttentionAllocator, TileAttentionConfig
from tokenred_methods.clip_pruners.window_cap import WindowCapConfig, WindowCapSelector

from tokenred import CapabilityError, InputError, VisualTokens, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens

EXACT = (
    "fastervlm",
    "vispruner",
    "cdpruner",
    "dpp",
    "hired",
    "hired-tiles",
    "vscan",
    "vscan-qwen",
)
RELEASED = ("cdpruner-released", "hired-tiles-released", "vscan-released")
CUES = {"relevance": 0}


def choose(selector, tokens, n_anchors):
    return selector.select(tokens, n_anchors, generator=torch.Generator())


def video(name, overrides=None, **settings):
    pipeline = load_pipeline(name, overrides)
    return pipeline, video_tokens(needs=pipeline.needs, cues=CUES, **settings)


@parametrize_checks(DuplicateRemovalSelector(DuplicateRemovalConfig()))
def test_duplicate_removal_contract(check):
    check()


@parametrize_checks(DppSelector(DppConfig(relevance="relevance")), cues=CUES)
def test_dpp_contract(check):
    check()


@parametrize_checks(WindowCapSelector(WindowCapConfig()))
def test_window_cap_contract(check):
    check()


@parametrize_checks(TileAttentionAllocator(TileAttentionConfig()))
def test_tile_attention_contract(check):
    check()


# --- duplicate-removal


def thinned(order, vectors, n_keep, per_round):
    """Remove duplicates one token at a time, with lists."""
    rest = list(order)
    while len(rest) > n_keep:
        even, odd = rest[0::2], rest[1::2]
        closest = {a: max(float(vectors[a] @ vectors[b]) for b in odd) for a in even}
        even.sort(key=lambda a: -closest[a])
        rest = even[min(per_round, len(rest) - n_keep) :] + odd
    return rest


@pytest.mark.parametrize("n_keep", [1, 2, 7, 16, 30, 48])
@pytest.mark.parametrize("per_round", [1, 3, 8])
def test_duplicates_go_round_by_round(n_keep, per_round):
    selector = DuplicateRemovalSelector(DuplicateRemovalConfig(per_round=per_round))
    tokens = video_tokens(2, (7, 7), needs=selector.needs, seed=3, dim=12, similar=0.0)
    keep = tokens.keep.clone()
    keep[1, 11] = False  # frames with different numbers
    chosen = choose(selector, replace(tokens, keep=keep), n_keep)
    unit = torch.nn.functional.normalize(tokens.features, dim=-1)
    for frame in range(2):
        attention = tokens.cues["salience@features"][frame]
        order = [t for t in attention.argsort(descending=True).tolist() if keep[frame, t]]
        assert chosen[frame].tolist() == thinned(order, unit[frame], n_keep, per_round)


def test_released_duplicate_removal_refuses_what_fails_upstream():
    tokens = video_tokens(1, (3, 5), needs={"salience@features"}, similar=0.0)
    released = DuplicateRemovalSelector(DuplicateRemovalConfig(released=True))
    with pytest.raises(InputError, match="8 of 15 tokens"):
        choose(released, tokens, 5)
    assert choose(released, tokens, 15).shape == (1, 15)  # nothing to remove
    ten = replace(tokens, keep=torch.arange(15)[None] < 10)
    with pytest.raises(InputError, match="8 of 10 tokens"):
        choose(released, ten, 2)
    sane = DuplicateRemovalSelector(DuplicateRemovalConfig())
    assert torch.equal(choose(released, ten, 5), choose(sane, ten, 5))


def test_a_similarity_needs_vectors():
    selector = DuplicateRemovalSelector(DuplicateRemovalConfig(of="attention@3"))
    with pytest.raises(CapabilityError, match="one number a token"):
        choose(selector, video_tokens(1, (3, 4), needs=selector.needs), 2)
    with pytest.raises(CapabilityError, match="attention@3"):
        choose(selector, video_tokens(1, (3, 4), needs={"salience@features"}), 2)


# --- dpp


def test_every_pick_adds_most_to_the_volume():
    selector = DppSelector(DppConfig(relevance="relevance"))
    tokens = video_tokens(3, (4, 5), needs={"relevance"}, cues=CUES, dim=16, similar=0.6)
    picks = choose(selector, tokens, 8)
    unit = torch.nn.functional.normalize(tokens.features.double(), dim=-1)
    for frame in range(3):
        values = tokens.cues["relevance"][frame].double()
        relevance = ((values - values.min()) / (values.max() - values.min())).clamp_min(1e-6)
        kernel = relevance[:, None] * (unit[frame] @ unit[frame].T + 1e-4 * torch.eye(20))
        kernel = kernel * relevance
        picked = []
        for pick in picks[frame].tolist():
            volumes = {
                t: float(torch.linalg.det(kernel[[*picked, t]][:, [*picked, t]]))
                for t in range(20)
                if t not in picked
            }
            assert pick == max(volumes, key=volumes.__getitem__)
            picked.append(pick)


def test_no_pick_repeats_beyond_the_rank_unless_as_released():
    tokens = video_tokens(2, (6, 6), needs={"relevance"}, cues=CUES, dim=4, similar=0.0)
    picks = choose(DppSelector(DppConfig(relevance="relevance")), tokens, 20)
    assert all(len(set(frame.tolist())) == 20 for frame in picks)
    mask = choose(DppSelector(DppConfig(relevance="relevance", released=True)), tokens, 20)
    assert mask.dtype == torch.bool
    assert (mask.sum(-1) < 20).all()
    assert (mask.sum(-1) >= 4).all()


def test_picks_repeat_as_released_even_where_all_may_stay():
    mode = {"budget.mode": "as-released", "budget.retention_ratio": 1.0}
    pipeline, tokens = video("cdpruner-released", mode, grid=(6, 6), dim=4, similar=0.0)
    assert max(pipeline.run(tokens).realised.tokens_per_frame) < 36
    repaired = load_pipeline("cdpruner", {"budget.retention_ratio": 1.0})
    assert repaired.run(tokens).realised.tokens_per_frame == (36,) * 4


def test_twins_are_not_both_picked():
    features = torch.eye(6)[[0, 0, 1, 2, 3, 4]][None]
    picks = choose(DppSelector(DppConfig()), VisualTokens.of(features, (2, 3)), 5)
    assert sorted(picks[0].tolist()) in ([0, 2, 3, 4, 5], [1, 2, 3, 4, 5])


def test_relevance_is_scaled_in_each_frame_unless_as_released():
    tokens = video_tokens(2, (5, 5), needs={"relevance"}, cues=CUES, dim=30, similar=0.5)
    other = tokens.cues["relevance"] * torch.tensor([[1.0], [100.0]])
    other[1] -= 7
    lower = replace(tokens, cues={"relevance": other})
    sane = DppSelector(DppConfig(relevance="relevance"))
    assert not sane.looks_across_frames
    assert torch.equal(choose(sane, tokens, 6), choose(sane, lower, 6))
    released = DppSelector(DppConfig(relevance="relevance", released=True))
    assert released.looks_across_frames
    before, after = choose(released, tokens, 6), choose(released, lower, 6)
    assert not torch.equal(before[0], after[0])


def test_equal_relevance_is_none():
    tokens = video_tokens(2, (5, 5), dim=30)
    flat = replace(tokens, cues={"relevance": torch.full((2, 25), 0.3)})
    plain = choose(DppSelector(DppConfig()), tokens, 6)
    assert torch.equal(choose(DppSelector(DppConfig(relevance="relevance")), flat, 6), plain)


def test_clip_relevance_is_minus_the_mean_cosine():
    image = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    one = clip_relevance(image, torch.tensor([[5.0, 0.0]]))
    torch.testing.assert_close(one, torch.tensor([[-1.0, 0.0, -(0.5**0.5)]]))
    two = clip_relevance(image, torch.tensor([[5.0, 0.0], [0.0, -1.0]]))
    torch.testing.assert_close(two, torch.tensor([[-0.5, 0.5, 0.0]]))


@pytest.mark.parametrize(
    ("image", "text"),
    [((4, 2), (1, 2)), ((1, 4, 2), (2,)), ((1, 4, 2), (1, 3)), ((1, 4, 2), (0, 2))],
)
def test_embeddings_that_do_not_fit_are_refused(image, text):
    with pytest.raises(InputError, match="embeddings"):
        clip_relevance(torch.ones(image), torch.ones(text))


def test_cdpruner_says_that_it_needs_the_question():
    pipeline, tokens = video("cdpruner", grid=(6, 6))
    assert pipeline.needs == {"relevance"}
    with pytest.raises(CapabilityError, match=r"cdpruner.*relevance"):
        pipeline.run(replace(tokens, cues={}))


# --- tile-attention


def looking_at(rows, columns, frames=5):
    """Return an overview of 8x8 and its tiles; the overview looks at one region."""
    attention = torch.full((frames, 8, 8), 0.001)
    attention[0, rows, columns] = 1.0
    return VisualTokens.of(
        torch.zeros(frames, 64, 2), (8, 8), cues={"salience@0": attention.flatten(1)}
    )


def allocate(tokens, n_anchors=10.0, **settings):
    return TileAttentionAllocator(TileAttentionConfig(**settings)).allocate(tokens, n_anchors)


def test_the_tile_that_is_looked_at_gets_the_anchors():
    right = looking_at(slice(0, 4), slice(4, 8))  # the second tile of 2x2
    assert allocate(right, alpha=0.75).tolist() == [37.5, 0.0, 12.5, 0.0, 0.0]
    # The release cuts the raster into runs: the upper half are the first two bands of rows.
    assert allocate(right, alpha=0.75, released=True).tolist() == [37.0, 6.0, 6.0, 0.0, 0.0]


def test_tiles_may_stand_otherwise():
    lower = looking_at(slice(6, 8), slice(0, 8))
    assert allocate(lower, alpha=0.75, tiles=(4, 1)).tolist() == [37.5, 0.0, 0.0, 0.0, 12.5]
    assert allocate(lower, alpha=0.75, tiles=(1, 4))[1:].tolist() == [3.125] * 4
    with pytest.raises(InputError, match="2x3 tiles and their overview are 7 frames, got 5"):
        allocate(lower, tiles=(2, 3))
    seven = looking_at(slice(0, 4), slice(0, 3), frames=7)  # 2x3, not 3x2
    shares = allocate(seven, alpha=0.9)
    assert int(shares[1:].argmax()) == 0
    assert shares[4] == 0


def test_released_shares_are_capped_and_rounded_down():
    tokens = looking_at(slice(0, 4), slice(4, 8))
    assert allocate(tokens, 60.0, alpha=0.5, released=True)[0] == 64.0  # all of the overview
    assert allocate(tokens, 10.5, alpha=0.5, released=True).sum() < 52.5
    assert allocate(tokens, 0.1, released=True).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_without_tiles_the_overview_gets_everything():
    assert allocate(looking_at(slice(0, 1), slice(0, 1), frames=1)).tolist() == [10.0]
    whole = allocate(looking_at(slice(0, 1), slice(0, 1)), alpha=1.0)
    assert whole.tolist() == [50.0, 0.0, 0.0, 0.0, 0.0]


def test_hired_keeps_what_the_tiles_were_given():
    pipeline, tokens = video("hired-tiles", {"budget.retention_ratio": 0.2}, frames=5, grid=(8, 8))
    dark = torch.full((5, 64), 0.001)
    dark[0] = looking_at(slice(4, 8), slice(0, 4)).cues["salience@0"][0]
    tokens = replace(tokens, cues={**tokens.cues, "salience@0": dark})
    counts = pipeline.run(tokens).realised.tokens_per_frame
    assert sum(counts) == 5 * 13
    # 32 marks: 16 where it looks, the others are the first of equals, in the upper rows.
    assert counts[3] == max(counts[1:])
    best = tokens.cues["salience@0.92"][3].argsort(descending=True)[: counts[3]]
    reduced = pipeline.run(tokens)
    assert set(reduced.token_index[reduced.frame_index == 3].tolist()) == set(best.tolist())


# --- window-cap


def walked(attention, alive, grid, window, n_local):
    """Walk down the attention and count for every window, as the description has it."""
    rows, columns = (max(1, side // length) for side, length in zip(grid, window))
    cap = -(-n_local // (rows * columns))
    taken, counts = [], {}
    for token in attention.argsort(descending=True).tolist():
        home = (
            min(token // grid[1] // window[0], rows - 1),
            min(token % grid[1] // window[1], columns - 1),
        )
        if alive[token] and counts.get(home, 0) < cap and len(taken) < n_local:
            taken.append(token)
            counts[home] = counts.get(home, 0) + 1
    return taken


@pytest.mark.parametrize("grid", [(8, 8), (10, 13), (3, 9), (7, 2)])
@pytest.mark.parametrize("n_anchors", [2, 9, 14])
def test_no_window_gives_more_than_its_share(grid, n_anchors):
    selector = WindowCapSelector(WindowCapConfig())
    tokens = video_tokens(3, grid, needs=selector.needs, seed=1)
    chosen = choose(selector, tokens, n_anchors)
    for frame in range(3):
        shallow, deep = (tokens.cues[f"salience@{layer}"][frame] for layer in (0.22, -1))
        local = walked(shallow, tokens.keep[frame], grid, (4, 4), n_anchors // 2)
        rest = [t for t in deep.argsort(descending=True).tolist() if t not in local]
        assert chosen[frame].tolist() == local + rest[: n_anchors - n_anchors // 2]


def test_windows_that_cannot_supply_hand_on():
    selector = WindowCapSelector(WindowCapConfig(global_ratio=0.0))
    tokens = video_tokens(1, (8, 8), needs=selector.needs)
    keep = torch.zeros(8, 8, dtype=torch.bool)
    keep[:4, :4] = True  # one window of four
    keep[7, 7] = True
    keep = keep.view(1, 64)
    assert len(walked(tokens.cues["salience@0.22"][0], keep[0], (8, 8), (4, 4), 12)) == 4
    chosen = choose(selector, replace(tokens, keep=keep), 12)[0].tolist()
    assert len(set(chosen)) == 12
    assert 63 in chosen[:4]  # its window is asked first
    assert all(keep[0, t] for t in chosen)


# --- presets


@pytest.mark.parametrize("native_pool", ["bilinear", "average"])
@pytest.mark.parametrize("ratio", [0.25, 0.2, 0.15, 0.1])
@pytest.mark.parametrize("name", EXACT)
def test_budgets_are_exact(name, ratio, native_pool):
    pipeline, tokens = video(
        name,
        {"budget.retention_ratio": ratio},
        frames=32 if ratio == 0.1 else 5,
        grid=(27, 27),
        dim=8,
        native_pool=native_pool,
    )
    reduced = pipeline.run(tokens)
    cells = {"bilinear": 196, "average": 169}[native_pool]
    assert len(reduced.features) == len(tokens.features) * -(-cells * round(ratio * 100) // 100)


@pytest.mark.parametrize("name", [*EXACT, *RELEASED])
def test_the_trace_is_what_happened(name):
    pipeline, tokens = video(name, {"budget.retention_ratio": 0.25}, frames=5, grid=(8, 8), dim=24)
    reduced = pipeline.run(tokens, trace=True)
    replayed = reduced.trace.to_dense() @ tokens.features.flatten(0, 1)
    torch.testing.assert_close(replayed, reduced.features, atol=1e-5, rtol=1e-5)


SWAPS = {
    "selector": {"selector": "uniform-grid"},
    "coupler": {"coupler": "sinkhorn", "aggregator": {"name": "mass-normalised", "mass": "unit"}},
    "aggregator": {"coupler": "cosine", "aggregator": "row-normalised"},
    "allocator": {"allocator": {"name": "anchor-frames", "every": 4}},
}
REPAIRED = {
    "cdpruner-released": {"selector.released": False},
    "hired-tiles-released": {},
    "vscan-released": {"selector.rounding": "exact"},
}
"""What an exact budget needs where the selector stays the released one."""


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("name", [*EXACT, *RELEASED])
def test_parts_can_be_swapped(name, swap):
    last = "diverse" if name == "vispruner" else "frame"
    repaired = {} if swap == "selector" else REPAIRED.get(name, {})
    exact = {"budget.retention_ratio": 0.25, "budget.mode": "exact"}
    parts = {f"stages.{last}.{slot}": part for slot, part in {**SWAPS[swap], **repaired}.items()}
    plain = load_pipeline(name, {"budget.retention_ratio": 0.25})
    swapped = load_pipeline(name, {**exact, **parts})
    needs = plain.needs | swapped.needs
    tokens = video_tokens(5, (8, 8), needs=needs, cues=CUES, dim=24)
    before, after = plain.run(tokens).features, swapped.run(tokens).features
    assert len(after) == 80
    assert before.shape != after.shape or not torch.equal(before, after)


@pytest.mark.parametrize("selector", ["duplicate-removal", "dpp", "window-cap"])
def test_selectors_work_in_other_pipelines(selector):
    overrides = {"stages.intra_frame.selector": {"name": selector}}
    pipeline, tokens = video(
        "aot-paper", overrides, frames=8, grid=(27, 27), dim=8, native_pool="bilinear"
    )
    assert len(pipeline.run(tokens).features) == 8 * 20


def test_vispruner_keeps_the_important_half():
    pipeline, tokens = video("vispruner", {"budget.retention_ratio": 0.25}, grid=(8, 8))
    reduced = pipeline.run(tokens)
    for frame in range(4):
        kept = set(reduced.token_index[reduced.frame_index == frame].tolist())
        assert len(kept) == 16
        assert (
            set(tokens.cues["salience@features"][frame].argsort(descending=True)[:8].tolist())
            < kept
        )


def test_vscan_released_loses_what_windows_do_not_divide():
    ratio = {"budget.retention_ratio": 50 / 576}
    pipeline, tokens = video("vscan-released", ratio, frames=2, grid=(24, 24))
    assert pipeline.run(tokens).realised.tokens_per_frame == (41, 41)
    assert load_pipeline("vscan", ratio).run(tokens).realised.tokens_per_frame == (50, 50)


@pytest.mark.parametrize("family", ["LLaVA-1.5", "LLaVA-OneVision", "Qwen2.5-VL"])
def test_models_give_what_the_presets_ask_for(family):
    pytest.importorskip("transformers")
    from tokenred.models import adapter_for
    from tokenred.testing.models import FAMILIES, synthetic_video

    tiny = FAMILIES[family]
    adapter = adapter_for(tiny.build()[0])
    frames = synthetic_video(4, max(tiny.frame_size), seed=3)
    frames = frames[..., : tiny.frame_size[0], : tiny.frame_size[1]]
    pictures = ([frames], []) if "video" in tiny.media else ([], [frames[0]])
    inputs = adapter.prepare(*pictures, settings=tiny.settings).inputs
    pipelines = {name: load_pipeline(name) for name in EXACT if name != "cdpruner"}
    needs = frozenset().union(*(pipeline.needs for pipeline in pipelines.values()))
    with torch.no_grad():
        (clip,) = adapter.encode(inputs, needs)
    for pipeline in pipelines.values():
        realised = pipeline.run(clip.tokens).realised
        frames = len(clip.tokens.keep)
        assert realised.n_tokens == frames * math.ceil(realised.vanilla_tokens / frames / 10)
    with pytest.raises(CapabilityError, match="no cue 'relevance'"):
        adapter.encode(inputs, load_pipeline("cdpruner").needs)
