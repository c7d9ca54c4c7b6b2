"""The data types refuse what is inconsistent, in one sentence."""

import dataclasses

import pytest
import torch

from tokenred import Coupling, InputError, Realised, Segments, VisualTokens


def test_of_fills_in_what_is_not_given() -> None:
    tokens = VisualTokens.of(torch.zeros(3, 6, 2), (2, 3))
    assert bool(tokens.keep.all())
    assert tokens.frame_times.tolist() == [0.0, 1.0, 2.0]
    assert dict(tokens.cues) == {}
    assert tokens.native_pool == "none"


@pytest.mark.parametrize(
    ("shape", "grid", "message"),
    [
        ((6, 2), (2, 3), r"features must be \(frames, tokens, dim\), got shape \(6, 2\)"),
        ((3, 6, 2), (2, 2), "grid 2x2 does not hold 6 tokens a frame"),
        ((0, 6, 2), (2, 3), "at least one frame with at least one token"),
        ((3, 0, 2), (0, 0), "at least one frame with at least one token"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], grid: tuple[int, int], message: str
) -> None:
    # With shape checks on, jaxtyping speaks first where the number of axes is wrong.
    with pytest.raises((InputError, TypeError), match=f"{message}|Type-check error"):
        VisualTokens.of(torch.zeros(shape), grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": torch.ones(3, 5, dtype=torch.bool)}, r"keep must be a \(3, 6\) bool tensor"),
        ({"keep": torch.ones(3, 6)}, r"keep must be a \(3, 6\) bool tensor"),
        ({"frame_times": torch.zeros(2)}, "one entry for each of the 3 frames"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    tokens = VisualTokens.of(torch.zeros(3, 6, 2), (2, 3))
    with pytest.raises((InputError, TypeError), match=f"{message}|Type-check error"):
        dataclasses.replace(tokens, **change)


def test_types_are_frozen() -> None:
    tokens = VisualTokens.of(torch.zeros(3, 6, 2), (2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens.grid = (3, 2)  # type: ignore[misc]


@pytest.mark.parametrize("boundaries", [(0,), (), (1, 2), (0, 2, 2), (0, 3, 1)])
def test_segments_rise_from_zero(boundaries: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="must rise strictly from 0"):
        Segments(boundaries)


def test_segments_iterate_over_runs_of_frames() -> None:
    segments = Segments((0, 2, 3, 7))
    assert len(segments) == 3
    assert list(segments) == [range(0, 2), range(2, 3), range(3, 7)]


def test_a_direct_coupling_is_solved() -> None:
    plan, masses = (
        torch.full((2, 3, 4), 1 / 12),
        (torch.full((2, 3), 1 / 3), torch.full((2, 4), 0.25)),
    )
    coupling = Coupling.direct(plan, torch.zeros(2, 3, 4), *masses)
    assert coupling.n_iter == 0
    assert coupling.residual.tolist() == [0.0, 0.0]
    assert coupling.converged.tolist() == [True, True]


def test_retention_counts_no_newlines() -> None:
    realised = Realised(20, 196, (20,), 1.0, (), newline_tokens=5)
    assert realised.retention_ratio == 20 / 196
