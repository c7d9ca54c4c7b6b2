"""The whole video as one segment."""

from typing import ClassVar

from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.types import Segments


class SingleConfig(StrategyConfig):
    """No settings."""


class SingleSegmenter:
    """Treat all frames as one segment.

    Shapes
    ------
    descriptors : (frames, dim), not read

    Source
    ------
    Our own control. Differs: nothing to differ from.
    """

    static: ClassVar[bool] = True

    def __init__(self, config: SingleConfig) -> None:
        self.config = config

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return one segment."""
        return Segments((0, descriptors.shape[0]))
