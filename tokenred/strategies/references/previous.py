"""Every frame is compared with the one just before it."""

from collections.abc import Sequence

from tokenred.config import StrategyConfig


class PreviousConfig(StrategyConfig):
    """No settings."""


class PreviousReference:
    """Compare every frame with the one before it, whatever became of that; the first stays whole.

    Shapes
    ------
    returns : one index for each frame of the segment

    Source
    ------
    yaolinli/TimeChat-Online@25a1578 ``token_drop`` (DTD) and vllm-project/vllm@926c71f
    ``compute_retention_mask`` (EVS). Licence of source: BSD-3-Clause and Apache-2.0 (written from
    our description).
    Differs: nothing.
    """

    def __init__(self, config: PreviousConfig) -> None:
        self.config = config

    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return 0, 0, 1, 2, ..."""
        return [0, *range(n_frames - 1)][:n_frames]
