"""Anchor selectors by example; their contract and properties are in tests/property."""

from typing import Any

import pytest
import torch

from tokenred import CapabilityError, VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred.slots import build, strategy_config
from tokenred.strategies.selectors.uniform_grid import spread
from tokenred.strategies.selectors.windows import window_ids, window_mask
from tokenred.testing import anchor_mask


def select(name: str, n_anchors: int, cues: dict[str, torch.Tensor], **settings: Any) -> list[int]:
    selector = build(AnchorSelector, strategy_config("selector", {"name": name, **settings}))
    first = next(iter(cues.values()))
    side = int(first.shape[1] ** 0.5)
    tokens = VisualTokens.of(torch.zeros(*first.shape, 2), (side, side), cues=cues)
    return anchor_mask(selector, tokens, n_anchors)[0].nonzero()[:, 0].tolist()


FALLING = torch.arange(36.0, 0, -1)[None]
RISING = FALLING.flip(-1)


def test_needs_name_the_layers() -> None:
    def needs(**settings: Any) -> set[str]:
        return set(build(AnchorSelector, strategy_config("selector", settings)).needs)

    assert needs(name="top-attention", layer=-2) == {"attention@-2"}
    assert needs(name="local", layer=0.2) == {"attention@0.2"}
    assert needs(name="local-global", shallow_layer=5) == {"attention@5", "attention@-2"}
    assert needs(name="random") == needs(name="uniform-grid") == set()


def test_top_attention_takes_the_top_and_the_first_of_equals() -> None:
    assert select("top-attention", 3, {"attention@-2": FALLING}) == [0, 1, 2]
    assert select("top-attention", 3, {"attention@-2": torch.ones(1, 36)}) == [0, 1, 2]


def test_local_takes_one_of_every_window() -> None:
    """Windows of 2x2 in a 6x6 grid: the first of each when attention falls."""
    wanted = [row * 6 + column for row in (0, 2, 4) for column in (0, 2, 4)]
    assert select("local", 9, {"attention@0.2": FALLING}) == wanted
    assert select("local", 11, {"attention@0.2": FALLING}) == sorted([*wanted, 1, 3])


def test_local_global_excludes_locals_from_globals() -> None:
    cues = {"attention@0.2": FALLING, "attention@-2": FALLING}
    local = [row * 6 + column for row in (0, 2, 4) for column in (0, 2, 4)]
    assert select("local-global", 18, cues) == sorted({*local, 1, 3, 5, 6, 7, 8, 9, 10, 11})
    cues["attention@-2"] = RISING
    assert select("local-global", 18, cues) == sorted({*local, 25, *range(27, 36)})


def test_floor_loses_what_the_windows_do_not_divide() -> None:
    cues = {"attention@0.2": FALLING, "attention@-2": RISING}
    assert len(select("local-global", 30, cues)) == 30
    assert len(select("local-global", 30, cues, rounding="floor")) == 9 + 15


@pytest.mark.parametrize(
    ("grid", "windows", "sizes"),
    [((27, 27), (3, 3), {81}), ((7, 5), (3, 3), {2, 3, 4, 6}), ((1, 10), (3, 3), {3, 4})],
)
def test_windows_share_remainders(
    grid: tuple[int, int], windows: tuple[int, int], sizes: set[int]
) -> None:
    counts = window_ids(grid, windows).bincount()
    assert set(counts[counts > 0].tolist()) <= sizes
    assert int(counts.sum()) == grid[0] * grid[1]


def test_dropped_tokens_are_never_marked() -> None:
    importance = torch.ones(1, 36)
    importance[0, ::2] = -torch.inf
    for exact in (True, False):
        mask = window_mask(importance, (6, 6), (3, 3), 18, exact=exact)
        assert int(mask.sum()) == 18
        assert not bool(mask[0, ::2].any())


def test_a_missing_cue_is_named() -> None:
    with pytest.raises(CapabilityError, match="needs the cue 'attention@-2'"):
        select("top-attention", 1, {"attention@5": FALLING})


@pytest.mark.parametrize(
    ("grid", "n", "wanted"),
    [
        ((6, 6), 4, [1 * 6 + 1, 1 * 6 + 4, 4 * 6 + 1, 4 * 6 + 4]),
        ((1, 4), 2, [1, 3]),
        ((4, 1), 2, [1, 3]),
        ((2, 2), 4, [0, 1, 2, 3]),
        ((3, 3), 1, [4]),
    ],
)
def test_spread_by_example(grid: tuple[int, int], n: int, wanted: list[int]) -> None:
    assert spread(grid, n) == wanted
