"""What anchor selectors promise beyond their contract: order of importance, windows, exclusion."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from property.cases import cue, make, video
from tokenred import VisualTokens, load_pipeline
from tokenred.strategies.selectors.windows import window_ids
from tokenred.testing import anchor_mask

GRIDS = st.sampled_from(((1, 7), (7, 1), (5, 7), (6, 6), (10, 4), (2, 2), (9, 9)))
WINDOWS = st.sampled_from(((3, 3), (1, 1), (2, 4), (5, 1)))


def attended(frames: int, grid: tuple[int, int], needs: frozenset[str], seed: int) -> VisualTokens:
    return video(frames, grid, needs=needs, seed=seed)


def best_per_window(
    importance: Tensor, grid: tuple[int, int], windows: tuple[int, int], quota: int
) -> set[int]:
    """Return the ``quota`` most important tokens of every window, by brute force."""
    chosen: set[int] = set()
    for row in range(windows[0]):
        for column in range(windows[1]):
            inside = [
                r * grid[1] + c
                for r in range(grid[0])
                for c in range(grid[1])
                if r * windows[0] // grid[0] == row and c * windows[1] // grid[1] == column
            ]
            inside.sort(key=lambda token: -float(importance[token]))
            chosen.update(inside[:quota])
    return chosen


@given(GRIDS, WINDOWS)
@settings(max_examples=examples(20))
def test_windows_partition_the_grid_evenly(grid: tuple[int, int], windows: tuple[int, int]) -> None:
    ids = window_ids(grid, windows)
    wanted = [
        row * windows[0] // grid[0] * windows[1] + column * windows[1] // grid[1]
        for row in range(grid[0])
        for column in range(grid[1])
    ]
    assert ids.tolist() == wanted
    if grid[0] >= windows[0] and grid[1] >= windows[1]:
        counts = ids.bincount()
        assert len(counts) == windows[0] * windows[1]
        rows = {-(-grid[0] // windows[0]), grid[0] // windows[0]}
        columns = {-(-grid[1] // windows[1]), grid[1] // windows[1]}
        assert set(counts.tolist()) <= {r * c for r in rows for c in columns}


@given(GRIDS, WINDOWS, st.integers(0, 999), st.data())
@settings(max_examples=examples(40))
def test_local_takes_the_best_of_every_window(
    grid: tuple[int, int], windows: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    selector = make("selector", "local", windows=windows, layer=3)
    tokens = attended(2, grid, selector.needs, seed)
    n_anchors = data.draw(st.integers(1, grid[0] * grid[1]))
    mask = anchor_mask(selector, tokens, n_anchors)
    assert (mask.sum(-1) == n_anchors).all()
    n_windows = windows[0] * windows[1]
    for frame in range(2):
        importance = tokens.cues["attention@3"][frame]
        chosen = set(mask[frame].nonzero()[:, 0].tolist())
        must = best_per_window(importance, grid, windows, n_anchors // n_windows)
        assert must <= chosen
        if grid[0] >= windows[0] and grid[1] >= windows[1]:
            smallest = int(window_ids(grid, windows).bincount().min())
            if n_anchors // n_windows < smallest:  # the leftover is at most one a window
                assert chosen <= best_per_window(
                    importance, grid, windows, n_anchors // n_windows + 1
                )


@given(st.integers(0, 999), st.integers(9, 60))
@settings(max_examples=examples(20))
def test_leftover_goes_to_the_most_important_of_the_next(seed: int, n_anchors: int) -> None:
    selector = make("selector", "local", layer=3)
    tokens = attended(1, (9, 9), selector.needs, seed)
    importance = tokens.cues["attention@3"][0]
    mask = anchor_mask(selector, tokens, n_anchors)[0]
    quota = n_anchors // 9
    first = best_per_window(importance, (9, 9), (3, 3), quota)
    candidates = best_per_window(importance, (9, 9), (3, 3), quota + 1) - first
    extra = sorted(candidates, key=lambda token: -float(importance[token]))[: n_anchors - 9 * quota]
    assert set(mask.nonzero()[:, 0].tolist()) == first | set(extra)


@given(GRIDS, WINDOWS, st.integers(0, 999), st.floats(0, 1), st.data())
@settings(max_examples=examples(40))
def test_local_and_global_anchors_are_distinct(
    grid: tuple[int, int],
    windows: tuple[int, int],
    seed: int,
    global_ratio: float,
    data: st.DataObject,
) -> None:
    selector = make("selector", "local-global", windows=windows, global_ratio=global_ratio)
    tokens = attended(2, grid, selector.needs, seed)
    n_anchors = data.draw(st.integers(1, grid[0] * grid[1]))
    n_local = int(n_anchors * (1 - global_ratio))
    mask = anchor_mask(selector, tokens, n_anchors)
    assert (mask.sum(-1) == n_anchors).all()
    if n_local:
        local = anchor_mask(make("selector", "local", windows=windows, layer=0.2), tokens, n_local)
    else:
        local = torch.zeros_like(mask)
    assert (mask | ~local).all()
    deep = tokens.cues["attention@-2"]
    for frame in range(2):
        rest = deep[frame].masked_fill(local[frame], -1)
        best = rest.argsort(descending=True)[: n_anchors - n_local]
        wanted = set(best.tolist()) | set(local[frame].nonzero()[:, 0].tolist())
        assert set(mask[frame].nonzero()[:, 0].tolist()) == wanted


@given(GRIDS, st.integers(0, 999), st.data())
@settings(max_examples=examples(20))
def test_floor_rounding_keeps_whole_windows_only(
    grid: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    windows = (min(3, grid[0]), min(3, grid[1]))
    n_windows = windows[0] * windows[1]
    smallest = int(window_ids(grid, windows).bincount().min())
    selector = make("selector", "local-global", windows=windows, rounding="floor", global_ratio=0.5)
    tokens = attended(2, grid, selector.needs, seed)
    n_anchors = data.draw(st.integers(1, min(grid[0] * grid[1], 2 * n_windows * smallest)))
    n_local = n_anchors // 2
    mask = anchor_mask(selector, tokens, n_anchors)
    wanted = n_windows * (n_local // n_windows) + (n_anchors - n_local)
    assert (mask.sum(-1) == wanted).all()


@pytest.mark.parametrize(
    ("name", "settings_"),
    [
        ("top-attention", {"layer": 1}),
        ("local", {"layer": 1}),
        ("local-global", {"shallow_layer": 1, "deep_layer": 1}),
    ],
)
@given(seed=st.integers(0, 999), n_anchors=st.integers(1, 35), token=st.integers(0, 34))
@settings(max_examples=examples(20))
def test_more_attention_never_costs_a_token_its_place(
    name: str, settings_: dict[str, Any], seed: int, n_anchors: int, token: int
) -> None:
    selector = make("selector", name, **settings_)
    tokens = attended(1, (5, 7), selector.needs, seed)
    before = anchor_mask(selector, tokens, n_anchors)
    raised = tokens.cues["attention@1"].clone()
    raised[0, token] += 0.05
    after = anchor_mask(selector, replace(tokens, cues={"attention@1": raised}), n_anchors)
    assert bool(after[0, token]) or not bool(before[0, token])
    raised[0, token] += 2  # the most important token of its frame
    assert anchor_mask(selector, replace(tokens, cues={"attention@1": raised}), n_anchors)[0, token]


@given(st.integers(1, 9), st.integers(1, 9), st.data())
@settings(max_examples=examples(40))
def test_uniform_grid_is_spread(rows: int, columns: int, data: st.DataObject) -> None:
    n_anchors = data.draw(st.integers(1, rows * columns))
    mask = anchor_mask(make("selector", "uniform-grid"), video(2, (rows, columns)), n_anchors)
    assert torch.equal(mask[0], mask[1])
    per_row = mask[0].view(rows, columns).sum(-1)
    used = per_row[per_row > 0]
    assert int(used.max() - used.min()) <= 1
    gaps = [len(run) for run in "".join("x" if n else "." for n in per_row).strip(".").split("x")]
    assert max(gaps) - min(gaps[1:-1], default=max(gaps)) <= 1


def test_random_is_uniform_over_what_is_alive() -> None:
    tokens = video(400, (2, 3))
    keep = tokens.keep.clone()
    keep[:, 4] = False
    selector = make("selector", "random")
    counts = anchor_mask(selector, replace(tokens, keep=keep), 2).sum(0)
    assert counts.tolist()[4] == 0
    alive = counts[counts > 0].float()
    assert len(alive) == 5
    assert float((alive - 160).abs().max()) < 40  # four standard deviations
    other = anchor_mask(selector, replace(tokens, keep=keep), 2, seed=1).sum(0)
    assert not torch.equal(counts, other)


@pytest.mark.parametrize("name", ["local", "local-global", "top-attention"])
def test_importance_decides_and_features_do_not(name: str) -> None:
    selector = make("selector", name)
    tokens = attended(3, (6, 6), selector.needs, 0)
    other = replace(tokens, features=torch.randn(3, 36, 5))
    assert torch.equal(anchor_mask(selector, tokens, 10), anchor_mask(selector, other, 10))
    cues = {key: cue(key, 3, 36, seed=5) for key in tokens.cues}
    moved = anchor_mask(selector, replace(tokens, cues=cues), 10)
    assert not torch.equal(anchor_mask(selector, tokens, 10), moved)


@pytest.mark.parametrize("grid", [(27, 27), (13, 14), (1, 40)])
@pytest.mark.parametrize("name", ["local", "local-global", "top-attention", "random"])
def test_stage_emits_anchors_sorted(name: str, grid: tuple[int, int]) -> None:
    pipeline = load_pipeline(
        {
            "budget": {"retention_ratio": 0.17},
            "stages": {"frame": {"kind": "frame", "selector": name}},
        }
    )
    reduced = pipeline.run(video(3, grid, needs=pipeline.needs))
    flat = reduced.frame_index * grid[0] * grid[1] + reduced.token_index
    assert bool((flat.diff() > 0).all())
    assert len(set(reduced.realised.tokens_per_frame)) == 1
