"""Every frame of a segment is compared with its first."""

from collections.abc import Sequence

from tokenred.config import StrategyConfig


class FirstConfig(StrategyConfig):
    """No settings."""


class FirstReference:
    """Compare every frame of a segment with the first one, which stays whole.

    Shapes
    ------
    returns : one index for each frame of the segment

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3, where later frames meet the anchors of the first.
    Licence of source: written from the paper.
    Differs: nothing is updated between the comparisons; AOT's own stage does that.
    """

    def __init__(self, config: FirstConfig) -> None:
        self.config = config

    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return 0 for every frame."""
        return [0] * n_frames
