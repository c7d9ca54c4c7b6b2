"""Temporal segmenters by example; their contract and properties are in tests/property."""

import builtins
from typing import Any

import pytest
import torch

from tokenred import CapabilityError
from tokenred.interfaces import TemporalSegmenter
from tokenred.slots import build, strategy_config


def boundaries(video: torch.Tensor, name: str, **settings: Any) -> tuple[int, ...]:
    segmenter = build(TemporalSegmenter, strategy_config("segmenter", {"name": name, **settings}))
    return segmenter.segment(video).boundaries


def turning(*angles: float) -> torch.Tensor:
    """Return descriptors that turn by these angles (degrees) from frame to frame."""
    total = torch.tensor([0.0, *angles]).cumsum(0).deg2rad()
    return torch.stack([total.cos(), total.sin()], -1)


def test_fixed_lengths() -> None:
    video = torch.zeros(10, 2)
    assert boundaries(video, "fixed-length") == (0, 4, 8, 10)
    assert boundaries(video, "fixed-length", segment_frames=20) == (0, 10)
    assert boundaries(video, "fixed-count", n_segments=3) == (0, 3, 6, 10)
    assert boundaries(torch.zeros(64, 2), "fixed-count") == tuple(range(0, 65, 8))
    assert boundaries(video, "single") == (0, 10)


def test_dynamic_cuts_where_frames_differ_most() -> None:
    video = turning(5, 40, 5, 20, 5, 90, 5)
    assert boundaries(video, "dynamic", min_segments=3, tau=-1) == (0, 2, 6, 8)
    assert boundaries(video, "dynamic", min_segments=1, tau=0.95) == (0, 2, 4, 6, 8)
    assert boundaries(video, "dynamic", min_segments=1, tau=-1) == (0, 8)


def test_dynamic_cuts_the_earlier_of_equals() -> None:
    assert boundaries(turning(30, 30, 30), "dynamic", min_segments=2, tau=-1) == (0, 1, 4)


def test_clustering_joins_neighbours_only() -> None:
    """The last frames look like the first, but lie in another run."""
    video = torch.eye(2)[torch.tensor([0, 0, 1, 1, 1, 0, 0])]
    assert boundaries(video, "clustering", n_segments=3) == (0, 2, 5, 7)


def test_clustering_without_scikit_learn_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CapabilityError, match="needs scikit-learn: pip install"):
        boundaries(torch.zeros(9, 2), "clustering", n_segments=3)
    assert boundaries(torch.zeros(9, 2), "clustering", n_segments=1) == (0, 9)
