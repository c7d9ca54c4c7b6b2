"""How common a token is: its likeness to the mean of the video, and to that of its frame."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens


class CommonnessConfig(StrategyConfig):
    """What both of VidCom2's strategies can be told."""

    channels: float = Field(
        0.5, gt=0, le=1, description="share of the channels that count, those that vary least"
    )
    widths: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] = Field(
        (0.125, 0.25, 0.5, 1.0, 2.0),
        min_length=1,
        description="squared widths of the Gaussians whose sum is the likeness",
    )


def commonness(
    tokens: VisualTokens, config: CommonnessConfig
) -> tuple[Float[Tensor, "frames tokens"], Float[Tensor, "frames tokens"]]:
    """Return the likeness of every token to the centre of the video and to that of its frame.

    Tokens that were dropped have no say in variances and centres; their own values mean nothing.
    """
    keep = tokens.keep[..., None]
    features = tokens.features.float().where(keep, 0.0)
    n_tokens = keep.sum().clamp_min(1)
    centred = (features - features.sum((0, 1)) / n_tokens).where(keep, 0.0)
    variance = centred.square().sum((0, 1)) / n_tokens
    n_channels = max(1, int(len(variance) * config.channels))
    steady = variance.argsort(stable=True)[:n_channels].sort().values
    points = F.normalize(features[..., steady], dim=-1)
    in_frame = points.sum(1, keepdim=True)
    of_video = in_frame.sum((0, 1)) / n_tokens
    of_frame = in_frame / keep.sum(1, keepdim=True).clamp_min(1)
    return _likeness(points, of_video, config.widths), _likeness(points, of_frame, config.widths)


def _likeness(
    points: Tensor, centre: Tensor, widths: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...]
) -> Tensor:
    distance = (points - centre).square().sum(-1)
    return torch.stack([(-distance / (2 * width)).exp() for width in widths]).sum(0)
