"""Synthetic videos in four regimes, with seeds that are fixed, and the couplings they lead to.

- ``smooth``: fields of several scales on the grid that drift from frame to frame, a shared offset,
  some white noise, and 1 % of the tokens with a norm ten times as large, as encoders have them;
- ``contrast``: the same without the offset and with less noise;
- ``iid``: white noise;
- ``regions``: a dozen regions with sharp borders and nothing in common. Between them hardly any
  mass can flow, so Sinkhorn is slow, as it is on a talking head seen by a real encoder.

No pretrained model is behind them: how fast Sinkhorn converges on them is indicative, how long a
sweep takes is not affected. ``real.py`` has the features of a real encoder.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenred.interfaces import AnchorSelector
from tokenred.pipeline import load_config
from tokenred.pipeline.flow import grid_positions
from tokenred.slots import build
from tokenred.types import VisualTokens

Regime = Literal["smooth", "contrast", "iid", "regions"]
REGIMES: tuple[Regime, ...] = ("smooth", "contrast", "iid", "regions")
GRID, DIM, FRAMES, ANCHORS = (27, 27), 3584, 32, 126
"""LLaVA-OneVision 7B: SigLIP's grid, the width of Qwen2, and AOT's anchors at 10 %."""

SCALES = (3, 7, 14)
PERIOD = 8
"""Frames after which a field has become another one."""

OUTLIERS, OUTLIER_NORM = 0.01, 10.0
REGIONS = 12
CUES = ("attention@0.2", "attention@-2")
SPATIAL_WEIGHT = 0.5


@dataclass(frozen=True)
class Problems:
    """A batch of couplings: a cost matrix a frame, and uniform marginals."""

    cost: Float[Tensor, "frames sources anchors"]
    source: Float[Tensor, "frames sources"]
    anchor: Float[Tensor, "frames anchors"]

    @classmethod
    def of(cls, cost: Float[Tensor, "frames sources anchors"]) -> "Problems":
        """Put uniform masses of total 1 on both sides."""
        frames, n, m = cost.shape
        return cls(cost, cost.new_full((frames, n), 1 / n), cost.new_full((frames, m), 1 / m))


def video(
    regime: Regime = "smooth",
    *,
    frames: int = FRAMES,
    grid: tuple[int, int] = GRID,
    dim: int = DIM,
    dtype: torch.dtype = torch.float32,
    native_pool: str = "none",
    seed: int = 0,
) -> VisualTokens:
    """Return a video with the two attention cues of AOT.

    Videos of more than 32 frames repeat their first 32: a reducer takes no less time for that, and
    they are made quickly.
    """
    generator = torch.Generator().manual_seed(seed)
    made = min(frames, FRAMES)
    features = _features(regime, made, grid, dim, generator)
    cues = {name: (4 * _field(made, grid, 1, 7, generator)[..., 0]).softmax(-1) for name in CUES}
    place = torch.arange(frames) % made
    features = features.to(dtype)
    if frames > made:
        features = features[place]
        cues = {name: cue[place] for name, cue in cues.items()}
    return VisualTokens.of(features, grid, cues=cues, native_pool=native_pool)


def _features(
    regime: Regime, frames: int, grid: tuple[int, int], dim: int, generator: torch.Generator
) -> Tensor:
    shape = (frames, grid[0] * grid[1], dim)
    noise = torch.randn(shape, generator=generator)
    if regime == "iid":
        return noise
    if regime == "regions":
        which = _field(frames, grid, REGIONS, 7, generator).argmax(-1)
        centres = torch.randn(REGIONS, dim, generator=generator)
        features = noise.mul_(0.4).add_(centres[which])
    else:
        features = noise.mul_(0.3 if regime == "smooth" else 0.1)
        for cells in SCALES:
            features += _field(frames, grid, dim, cells, generator) / len(SCALES) ** 0.5
        if regime == "smooth":
            features += 0.8 * torch.randn(dim, generator=generator)
    loud = torch.rand(shape[:2], generator=generator) < OUTLIERS
    return features.mul_(1 + (OUTLIER_NORM - 1) * loud[..., None])


def _field(
    frames: int, grid: tuple[int, int], channels: int, cells: int, generator: torch.Generator
) -> Tensor:
    """Return (frames, tokens, channels): smooth noise with ``cells`` bumps a side that drifts."""
    n_keys = (frames - 1) // PERIOD + 2
    coarse = torch.randn(n_keys, channels, cells, cells, generator=generator)
    keys = F.interpolate(coarse, size=grid, mode="bicubic", align_corners=True).flatten(2)
    keys = keys.mT.contiguous()
    time = torch.arange(frames) / PERIOD
    low = time.floor().long()
    out = torch.empty(frames, keys.shape[1], channels)
    for frame, (key, part) in enumerate(zip(low.tolist(), (time - low).tolist())):
        torch.lerp(keys[key], keys[key + 1], part, out=out[frame])
    return out


def anchor_mask(tokens: VisualTokens, n_anchors: int = ANCHORS) -> Tensor:
    """Return (frames, tokens): the anchors that the selector of ``aot-paper`` picks."""
    selector = build(AnchorSelector, load_config("aot-paper").stages["intra_frame"].selector)
    return selector.select(tokens, n_anchors, generator=torch.Generator().manual_seed(0))


def problems(
    tokens: VisualTokens,
    n_anchors: int = ANCHORS,
    *,
    spatial: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Problems:
    """Return the couplings of the frame stage: every other token of a frame to its anchors.

    Parameters
    ----------
    spatial : add half the distance on the grid, as AOT's released code does
    dtype : of the cost; it is computed in float64
    """
    mask = anchor_mask(tokens, n_anchors)
    n = mask.shape[1]
    positions = grid_positions(tokens.grid, mask.device).double()
    costs = []
    for features, anchors in zip(tokens.features, mask):
        unit = F.normalize(features.double(), dim=-1)
        cost = 1 - unit[~anchors] @ unit[anchors].mT
        if spatial:
            cost += SPATIAL_WEIGHT * torch.cdist(positions[~anchors], positions[anchors])
        costs.append(cost.to(dtype))
    stacked = torch.stack(costs)
    assert stacked.shape[1:] == (n - n_anchors, n_anchors)
    return Problems.of(stacked)
