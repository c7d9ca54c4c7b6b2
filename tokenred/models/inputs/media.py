"""Images and videos to ask a model about."""

from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class MediaInput:
    """The images or videos of one question, all of one kind.

    Attributes
    ----------
    kind : ``video`` or ``image``
    pixels : of each: (frames, height, width, 3) RGB, one frame of an image
    frame_indices : of every video
    frame_times : (frames,) seconds, of every video; None if unknown
    remarks : what a reader should know
    """

    kind: str
    pixels: tuple[UInt8[Tensor, "frames height width 3"], ...]
    frame_indices: tuple[tuple[int, ...], ...] = ()
    frame_times: tuple[Float[Tensor, "frames"], ...] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def all_indices(self) -> list[int]:
        """Frame indices of all videos in a row."""
        return [each for indices in self.frame_indices for each in indices]
