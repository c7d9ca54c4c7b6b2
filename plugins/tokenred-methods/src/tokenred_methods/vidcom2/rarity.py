"""Tokens that are unlike the mean of the video and of their frame."""

import torch
from torch import Tensor

from tokenred import VisualTokens
from tokenred.interfaces import AnchorSelector
from tokenred_methods.vidcom2.commonness import CommonnessConfig, commonness


class RarityConfig(CommonnessConfig):
    """Settings of the rarity selector."""


class RaritySelector(AnchorSelector):
    """Select the tokens that are least like the centre of the video and that of their frame.

    The likeness to a centre is a sum of Gaussians of the distance, between tokens of unit length in
    those channels that vary least over the video. The sum of both likenesses decides.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : (frames, n_anchors), the rarest first

    Source
    ------
    VidCom2, arXiv 2505.14454; xuyang-liu16/VidCom2@944a17d ``vidcom2_compression``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: nothing where all tokens are alive; dropped ones have no say in variances and centres.
    """

    config: RarityConfig
    looks_across_frames = True

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices."""
        in_video, in_frame = commonness(tokens, self.config)
        common = (in_video + in_frame).masked_fill(~tokens.keep, torch.inf)
        return common.argsort(dim=-1, stable=True)[:, :n_anchors]
