"""Anchors that span most: the greedy determinant of a squared Gram matrix of scaled channels."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import InputError, StrategyConfig, VisualTokens
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.determinant import greedy_determinant
from tokenred.strategies.selectors.vectors import OF_TEXT, needs_of, products_with, vectors_of


class ChannelVolumeConfig(StrategyConfig):
    """Settings of the channel-volume selector."""

    of: TokenCue = Field("features", description=OF_TEXT)
    weight: float = Field(
        0.01, gt=0, le=1e6, description="factor of the squared Gram matrix beside the identity"
    )
    released: bool = Field(
        False,
        description="give the picks in the order of a Python set of their numbers; no picks at all "
        "are refused",
    )


class ChannelVolumeSelector(AnchorSelector):
    """Pick tokens one by one, each adding most to the log-determinant of ``I + weight * G @ G``.

    ``G`` holds the inner products of the tokens after every channel was divided by its length over
    the open tokens of a frame. Neither ``G`` nor the kernel is built where the tokens are more than
    the channels.

    Shapes
    ------
    ``of`` : (frames, tokens, width)      returns : (frames, n_anchors), in the order of picking

    Raises
    ------
    InputError
        With ``released``, if it is asked for no token.

    Source
    ------
    OTPrune, arXiv 2602.20205; xiwenc1/OTPrune@3414730 ``LlavaMetaForCausalLM.OTPrune``.
    Licence of source: Apache-2.0 (written from our description).
    Differs: the order; half precision is computed in float32 from the start.
    """

    config: ChannelVolumeConfig

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is compared."""
        return needs_of(self.config.of)

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return the picked tokens."""
        if self.config.released and n_anchors == 0:
            raise InputError("the released code picks one token at least, and was asked for none")
        left, right = self._factors(tokens)
        frame = torch.arange(len(left), device=left.device)

        def kernel_row(pick: Tensor) -> Tensor:
            row = self.config.weight * products_with(left, right[frame, pick])
            row[frame, pick] += 1
            return row

        own = 1 + self.config.weight * (left * right).sum(-1)
        picks = greedy_determinant(own.masked_fill(~tokens.keep, -torch.inf), kernel_row, n_anchors)
        if self.config.released:
            hashed = [list(set(each)) for each in picks.tolist()]
            return torch.tensor(hashed, dtype=picks.dtype, device=picks.device)
        return picks

    def _factors(
        self, tokens: VisualTokens
    ) -> tuple[Float[Tensor, "frames tokens width"], Float[Tensor, "frames tokens width"]]:
        """Return two factors of ``G @ G``, the smaller ones that there are."""
        vectors = vectors_of(tokens, self.config.of).masked_fill(~tokens.keep[..., None], 0.0)
        length = vectors.norm(dim=1, keepdim=True)
        scaled = vectors / length.where(length > 0, 1.0)
        if scaled.shape[1] <= scaled.shape[2]:
            gram = scaled @ scaled.mT
            return gram, gram
        return scaled @ (scaled.mT @ scaled), scaled
