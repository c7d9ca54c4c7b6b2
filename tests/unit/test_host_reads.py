"""How often values are read on the host, where a GPU would be waited for."""

from collections.abc import Callable

import pytest
import torch
from host_reads import host_reads
from property.cases import pipeline_video
from torch import Tensor

from tokenred import load_pipeline
from tokenred.kernels import paths
from tokenred.pipeline.flow import Flow

FIXED = {"coupler.max_iter": 5, "coupler.stop": "none"}
"""Sweeps that look at nothing, as the sweeps of the native library and of Triton do."""


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.index_put((x > 0,), torch.zeros(())),
        lambda x: torch.equal(x, x),
        lambda x: x.long().bincount(),
        lambda x: x.unique(),
    ],
)
def test_a_read_is_seen(read: Callable[[Tensor], object]) -> None:
    x = torch.arange(3.0)
    with host_reads() as found:
        read(x)
    assert len(found) == 1


def test_arithmetic_is_no_read() -> None:
    x = torch.arange(3.0)
    with host_reads() as found:
        (x[x.long()] + x.where(x > 0, 1.0)).sum()
    assert found == []


@pytest.mark.parametrize(("preset", "most"), [("aot-paper", 75), ("top-attention", 20)])
def test_a_longer_video_is_not_looked_at_more_often(
    preset: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where everything is solved at once."""
    monkeypatch.setattr(Flow, "chunks", lambda self, n_items, n_values: [slice(0, n_items)])
    stages = ("intra_frame", "inter_frame") if preset == "aot-paper" else ()
    fixed = {f"{stage}.{key}": value for stage in stages for key, value in FIXED.items()}
    pipeline, seen = load_pipeline(preset, fixed), []
    for frames in (8, 24):
        tokens = pipeline_video(pipeline, frames=frames, grid=(8, 8), seed=1)
        with host_reads() as found, paths.use("torch"):
            pipeline.run(tokens)
        seen.append(sorted(found))
    assert seen[0] == seen[1]
    assert len(seen[0]) <= most
